//! The endpoint record: one file for each pod interface, the truth about which pods exist on the node.
//!
//! The CNI plugin writes a record as the last step of an ADD before it asks the agent for the policy, and
//! removes it last in a DEL. A record is written whole beside its place and renamed into it, so a reader never
//! sees half of one. Nobody else writes here.
//!
//! Agents and plugins of other versions meet them, after an upgrade and after its rollback. So a field may be added that
//! readers before pass over, and one that is missing has a default. What readers before would get wrong without knowing
//! it is another [`FORMAT`], which they refuse.

use std::{
    fmt::{self, Write as _},
    fs::{self, File},
    io::{self, Write as _},
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::paths;

/// The least MTU of a pod: with less, the kernel takes IPv6 away from an interface (RFC 8200 section 5).
pub const LEAST_MTU: u32 = 1280;
/// The start of every host-side interface name of ours.
pub const HOST_IFNAME_PREFIX: &str = "mgy";

/// The form of records that this version writes and reads. Without the field `format` it is 1.
pub const FORMAT: u32 = 1;

/// Names an endpoint on its node: 12 hex digits of a hash of container ID and interface name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EndpointId(String);

/// Text that is no endpoint ID.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not an endpoint ID, which is 12 lower-case hex digits")]
pub struct EndpointIdError(String);

impl EndpointId {
    /// The ID of an interface of a container.
    pub fn of(container_id: &str, ifname: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(container_id.as_bytes());
        // Neither name can contain a NUL, so no two pairs hash the same octets.
        hash.update([0]);
        hash.update(ifname.as_bytes());
        let mut text = String::with_capacity(12);
        for octet in hash.finalize().iter().take(6) {
            // Writing to a String cannot fail.
            let _ok = write!(text, "{octet:02x}");
        }
        Self(text)
    }

    /// The name of the interface's host end.
    pub fn host_ifname(&self) -> String {
        format!("{HOST_IFNAME_PREFIX}{}", self.0)
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for EndpointId {
    type Err = EndpointIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for EndpointId {
    type Error = EndpointIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let valid =
            text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if valid { Ok(Self(text)) } else { Err(EndpointIdError(text)) }
    }
}

impl From<EndpointId> for String {
    fn from(id: EndpointId) -> Self {
        id.0
    }
}

/// The pod that an endpoint belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, where the runtime tells it (`K8S_POD_UID`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

impl fmt::Display for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// All that is to be known about a pod interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// `CNI_CONTAINERID`, as addresses are held by it: a long one is shortened.
    pub container_id: String,
    /// `CNI_IFNAME`: the interface's name in the pod.
    pub ifname: String,
    /// The name of the network, from its configuration. A GC of one network leaves those of others alone. The first
    /// records do not have it: there was only one.
    #[serde(default = "first_network")]
    pub network: String,
    /// `CNI_NETNS`: the path of the pod's network namespace.
    pub netns: String,
    /// The interface's name on the host.
    pub host_ifname: String,
    /// The link-layer address of the pod's end.
    pub mac: String,
    /// The link-layer address of the host's end.
    pub host_mac: String,
    /// The pod's addresses, at most one of a family.
    pub addresses: Vec<IpAddr>,
    /// The octets that a packet may have.
    pub mtu: u32,
    /// The pod, when a Kubernetes runtime asked (`K8S_POD_*` in `CNI_ARGS`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodRef>,
}

fn first_network() -> String {
    paths::CNI_NETWORK.into()
}

/// What any version reads of a record first.
#[derive(Deserialize)]
struct Form {
    #[serde(default = "first_format")]
    format: u32,
}

const fn first_format() -> u32 {
    1
}

impl Endpoint {
    /// Its ID.
    pub fn id(&self) -> EndpointId {
        EndpointId::of(&self.container_id, &self.ifname)
    }
}

/// The directory of records.
#[derive(Debug, Clone)]
pub struct Records {
    dir: PathBuf,
}

/// What went wrong with a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A file operation failed.
    #[error("{action} {}", .path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The record is not what we write.
    #[error("read endpoint record {}: it is damaged", .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where it is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Another version wrote the record.
    #[error(
        "read endpoint record {}: it is of format {found}, and this version knows none above {FORMAT}; run the version \
         of Margay that wrote it, or delete the pod",
        .path.display()
    )]
    Format {
        /// Which file.
        path: PathBuf,
        /// The format that it says.
        found: u32,
    },
}

impl Records {
    /// The records below a run directory.
    pub fn below(run_dir: &Path) -> Self {
        Self { dir: run_dir.join(paths::ENDPOINTS) }
    }

    /// The directory they are in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes a record, whole or not at all.
    ///
    /// # Errors
    /// When the file system refuses; nothing is left then.
    pub fn write(&self, endpoint: &Endpoint) -> Result<(), RecordError> {
        let path = self.path(&endpoint.id());
        let half = path.with_extension("new");
        let failed =
            |action| move |path: &Path, source| RecordError::File { action, path: path.to_owned(), source };
        fs::create_dir_all(&self.dir).map_err(|source| failed("create directory")(&self.dir, source))?;
        let text = serde_json::to_vec(endpoint)
            .map_err(|source| RecordError::Damaged { path: path.clone(), source })?;
        let written = File::create(&half)
            .and_then(|mut file| file.write_all(&text))
            .and_then(|()| fs::rename(&half, &path));
        written.map_err(|source| {
            // Best effort: the error that matters is the first.
            drop(fs::remove_file(&half));
            failed("write endpoint record")(&path, source)
        })
    }

    /// Reads a record; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or is of a format that this version does not know.
    pub fn read(&self, id: &EndpointId) -> Result<Option<Endpoint>, RecordError> {
        let path = self.path(id);
        match fs::read(&path) {
            Ok(text) => {
                let damaged = |source| RecordError::Damaged { path: path.clone(), source };
                let Form { format } = serde_json::from_slice(&text).map_err(damaged)?;
                if format > FORMAT {
                    return Err(RecordError::Format { path, found: format });
                }
                serde_json::from_slice(&text).map(Some).map_err(damaged)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(RecordError::File { action: "read endpoint record", path, source }),
        }
    }

    /// Removes a record. That it is not there is success.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove(&self, id: &EndpointId) -> Result<(), RecordError> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(RecordError::File { action: "remove endpoint record", path, source: error })
            }
            _ => Ok(()),
        }
    }

    /// All records in order of ID, the damaged ones apart so that one of them hides no other.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> Result<Listing, RecordError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Listing::default()),
            Err(source) => {
                return Err(RecordError::File { action: "list", path: self.dir.clone(), source });
            }
        };
        let mut ids: Vec<EndpointId> = entries
            .filter_map(Result::ok)
            .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".json")?.parse().ok())
            .collect();
        ids.sort();
        let mut listing = Listing::default();
        for id in ids {
            match self.read(&id) {
                Ok(Some(endpoint)) => listing.endpoints.push(endpoint),
                Ok(None) => {}
                Err(error) => listing.damaged.push((id, error)),
            }
        }
        Ok(listing)
    }

    fn path(&self, id: &EndpointId) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }
}

/// What is in the directory of records.
#[derive(Debug, Default)]
pub struct Listing {
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Records that could not be read, and why.
    pub damaged: Vec<(EndpointId, RecordError)>,
}

#[cfg(test)]
mod tests {
    use super::{Endpoint, EndpointId, Records};

    fn endpoint(container_id: &str) -> Endpoint {
        let id = EndpointId::of(container_id, "eth0");
        Endpoint {
            container_id: container_id.into(),
            ifname: "eth0".into(),
            network: "margay".into(),
            netns: "/run/netns/x".into(),
            host_ifname: id.host_ifname(),
            mac: "02:00:00:00:00:01".into(),
            host_mac: "02:00:00:00:00:02".into(),
            addresses: vec!["192.0.2.7".parse().unwrap()],
            mtu: 1500,
            pod: None,
        }
    }

    #[test]
    fn a_host_interface_name_fits_the_kernel_and_depends_on_both_names() {
        let id = EndpointId::of("c1", "eth0");
        assert_eq!(id.host_ifname().len(), 15);
        assert_ne!(id, EndpointId::of("c1", "eth1"));
        assert_ne!(EndpointId::of("a", "bc"), EndpointId::of("ab", "c"));
        assert!("../../etc/pwd".parse::<EndpointId>().is_err());
    }

    #[test]
    fn records_read_back_and_a_damaged_one_hides_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::below(dir.path());
        assert!(records.list().unwrap().endpoints.is_empty());
        records.write(&endpoint("a")).unwrap();
        records.write(&endpoint("b")).unwrap();
        let damaged = endpoint("a").id();
        std::fs::write(records.dir().join(format!("{damaged}.json")), "{").unwrap();
        let listing = records.list().unwrap();
        assert_eq!(listing.endpoints, [endpoint("b")]);
        assert_eq!(listing.damaged[0].0, damaged);
        records.remove(&damaged).unwrap();
        records.remove(&damaged).unwrap();
        assert_eq!(records.read(&damaged).unwrap(), None);
    }

    #[test]
    fn records_of_other_versions_are_read_unless_they_say_that_they_mean_something_else() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::below(dir.path());
        let read = |text: &str| {
            std::fs::create_dir_all(records.dir()).unwrap();
            std::fs::write(records.dir().join(format!("{}.json", endpoint("a").id())), text).unwrap();
            records.read(&endpoint("a").id())
        };
        // As the plugin of commit 146f0cc wrote it.
        let first = r#"{"containerId":"a","ifname":"eth0","netns":"/run/netns/x","hostIfname":"HOST",
            "mac":"02:00:00:00:00:01","hostMac":"02:00:00:00:00:02","addresses":["192.0.2.7"],"mtu":1500}"#;
        let first = first.replace("HOST", &endpoint("a").host_ifname);
        assert_eq!(read(&first).unwrap().unwrap(), endpoint("a"));
        let more = |field: &str| first.replacen('{', &format!("{{{field},"), 1);
        assert_eq!(read(&more(r#""queues":{"rx":4},"network":"margay""#)).unwrap().unwrap(), endpoint("a"));
        assert_eq!(read(&more(r#""format":1"#)).unwrap().unwrap(), endpoint("a"));
        let refused = read(&more(r#""format":2,"mtu":"large""#)).unwrap_err().to_string();
        assert!(refused.contains("it is of format 2") && refused.contains("delete the pod"), "{refused}");
        let listing = records.list().unwrap();
        assert_eq!((listing.endpoints.len(), listing.damaged.len()), (0, 1));
    }
}
