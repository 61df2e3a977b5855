//! The passwords in a Secret.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kube::api::ObjectMeta;
use margay_bgp::config::{LONGEST_PASSWORD, Password};

use super::{Read, guarded::Kind};

/// The entries of a Secret by key: passwords, or why they are none.
pub(crate) type SecretFacts = BTreeMap<String, Result<Password, &'static str>>;

impl Kind for Secret {}

pub(super) fn key(meta: &ObjectMeta) -> String {
    meta.name.clone().unwrap_or_default()
}

/// Nobody but a peer with a password asks for an entry, and says then what is wrong with it.
pub(super) fn read(object: &Secret) -> Read<SecretFacts> {
    let entries = object.data.iter().flatten();
    Read::clean(entries.map(|(key, value)| (key.clone(), password(&value.0))).collect())
}

fn password(octets: &[u8]) -> Result<Password, &'static str> {
    let text = str::from_utf8(octets).map_err(|_not_text| "is no text in UTF-8")?;
    if text.ends_with(['\n', '\r']) {
        return Err(
            "ends with a line break, which the other end would need too: write it without (printf, not echo)",
        );
    }
    if !(1..=LONGEST_PASSWORD).contains(&text.len()) {
        return Err("is empty, or longer than the 80 octets that Linux takes");
    }
    Ok(Password(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::password;

    #[test]
    fn a_password_is_taken_as_it_is_or_not_at_all() {
        assert_eq!(password(b"s3cret").unwrap().0, "s3cret");
        for (octets, word) in
            [(&b""[..], "empty"), (&[b'x'; 81], "80 octets"), (b"x\n", "line break"), (&[0xff], "UTF-8")]
        {
            assert!(password(octets).unwrap_err().contains(word), "{octets:?}");
        }
    }
}
