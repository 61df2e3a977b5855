//! An object as the API server sends it, cut down to the fields that are read of it.
//!
//! A pod is some thousand octets of JSON, of which the agent needs a few dozen, and there may be 150,000 of them. What is not
//! among the fields of its kind is passed over while it is parsed: it is never put into memory, and cannot make an object
//! unreadable. One that has not its kind's form still has its name, and hides no other.

use std::{borrow::Cow, fmt};

use kube::{Resource, core::ObjectMeta};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

/// A kind with the fields that are read of it.
pub(super) trait Kind: Resource<DynamicType = ()> + DeserializeOwned {
    /// What is kept of an object; everything where there is nothing.
    const FIELDS: &'static [Field] = &[];
    /// Whether the API server is asked for `metadata` alone (`PartialObjectMetadata`), as no other field is read.
    const METADATA_ONLY: bool = false;
}

/// A field, with those of its own that are kept: all where there are none. Of a list they are its elements' fields.
#[derive(Debug)]
pub(super) struct Field {
    name: &'static str,
    fields: &'static [Field],
}

impl Field {
    /// All of a field.
    pub(super) const fn whole(name: &'static str) -> Self {
        Self { name, fields: &[] }
    }

    /// Some of its fields.
    pub(super) const fn with(name: &'static str, fields: &'static [Field]) -> Self {
        Self { name, fields }
    }
}

/// What every watch needs of `metadata`, and labels and annotations.
pub(super) const METADATA: Field = Field::with(
    "metadata",
    &[
        Field::whole("namespace"),
        Field::whole("name"),
        Field::whole("uid"),
        Field::whole("resourceVersion"),
        Field::whole("generation"),
        Field::whole("creationTimestamp"),
        Field::whole("deletionTimestamp"),
        Field::whole("labels"),
        Field::whole("annotations"),
    ],
);

/// An object, or why it is none.
#[derive(Debug, Clone)]
pub(super) struct Guarded<O>(pub(super) Result<O, Unreadable>);

/// An object that has not its kind's form.
#[derive(Debug, Clone)]
pub(super) struct Unreadable {
    pub(super) error: String,
    pub(super) metadata: ObjectMeta,
}

impl<'de, O: Kind> Deserialize<'de> for Guarded<O> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Kept(O::FIELDS).deserialize(deserializer)?;
        Ok(Self(match O::deserialize(&value) {
            Ok(object) => Ok(object),
            Err(error) => {
                // Without metadata nobody knows which object it is: that is the API server's fault, and ends the watch.
                let metadata = ObjectMeta::deserialize(&value["metadata"]).map_err(D::Error::custom)?;
                Err(Unreadable { error: error.to_string(), metadata })
            }
        }))
    }
}

impl<O: Kind> Resource for Guarded<O> {
    type DynamicType = ();
    type Scope = O::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        O::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        O::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        O::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        O::plural(&())
    }

    fn metadata_api() -> bool {
        O::METADATA_ONLY
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.as_ref().map_or_else(|unreadable| &unreadable.metadata, O::meta)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.as_mut().map_or_else(|unreadable| &mut unreadable.metadata, O::meta_mut)
    }
}

/// Reads a value with these of its fields, or with all.
#[derive(Clone, Copy)]
struct Kept(&'static [Field]);

impl<'de> DeserializeSeed<'de> for Kept {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.0.is_empty() { Value::deserialize(deserializer) } else { deserializer.deserialize_any(self) }
    }
}

impl<'de> Visitor<'de> for Kept {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<Cow<'de, str>>()? {
            match self.0.iter().find(|field| field.name == key) {
                Some(field) => {
                    let value = access.next_value_seed(Kept(field.fields))?;
                    map.insert(field.name.to_owned(), value);
                }
                None => {
                    access.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Value::Object(map))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = access.next_element_seed(self)? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    // What is neither is of the wrong form, or null; whoever reads the object says so.

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use k8s_openapi::api::core::v1::Pod;
    use kube::{Resource, api::WatchEvent, core::ObjectList};
    use serde_json::{Value, json};

    use super::{
        super::{Read, namespace, node, pod},
        Guarded, Kind,
    };

    fn a_pod() -> Value {
        json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": {"namespace": "x", "name": "a", "resourceVersion": "7", "managedFields": [{"manager": "kubelet"}]},
            "spec": {"nodeName": "n1", "volumes": [{"name": "v"}], "containers": [{"name": "c", "image": "i", "ports": [{"name": "web", "containerPort": 80}]}]},
            "status": {"podIP": "10.0.0.1", "conditions": null},
        })
    }

    #[test]
    fn what_is_not_read_of_an_object_is_not_kept() {
        let pod: Guarded<Pod> = serde_json::from_value(a_pod()).unwrap();
        let pod = pod.0.unwrap();
        let spec = pod.spec.unwrap();
        assert_eq!(spec.node_name.as_deref(), Some("n1"));
        assert_eq!(spec.containers[0].ports.as_ref().unwrap()[0].container_port, 80);
        assert_eq!(pod.status.unwrap().pod_ip.as_deref(), Some("10.0.0.1"));
        assert_eq!((pod.metadata.managed_fields, spec.volumes), (None, None));
        assert_eq!(spec.containers[0].image, None);
    }

    /// What is read of an object that is cut down, and of the same in whole.
    fn check<O: Kind, V: PartialEq + Debug>(text: &str, read: impl Fn(&O) -> Read<V>) {
        let object: Value = serde_saphyr::from_str(text).unwrap();
        let whole: O = serde_json::from_value(object.clone()).unwrap();
        let kept: Guarded<O> = serde_json::from_value(object).unwrap();
        let [kept, whole] = [&kept.0.unwrap(), &whole].map(|object| read(object).value);
        assert!(kept.is_some());
        assert_eq!(kept, whole);
    }

    #[test]
    fn what_is_read_of_an_object_is_kept() {
        let metadata = "metadata: {namespace: x, name: n1, uid: u, labels: {app: web, margay.dev/route-reflector: '1'}, \
                        annotations: {margay.dev/ip-pools: p, margay.dev/ip: 192.0.2.7, margay.dev/pod-ips: 10.0.0.9, margay.dev/node-ips: 198.51.100.1, \
                        margay.dev/bgp-asn: '64501', margay.dev/log-drops: 'true', kubernetes.io/config.hash: h}, \
                        creationTimestamp: '2026-01-01T00:00:00Z', deletionTimestamp: '2026-01-02T00:00:00Z'}";
        let common = pod::Common::default();
        let ports = "ports: [{name: web, containerPort: 80, protocol: UDP}]";
        for status in [
            "{phase: Running, podIPs: [{ip: 10.0.0.1}]}",
            "{phase: Failed, podIP: 10.0.0.1}",
            "{phase: Pending}",
        ] {
            let spec = format!(
                "{{nodeName: n1, hostNetwork: false, containers: [{{name: c, {ports}}}], \
                 initContainers: [{{name: i, restartPolicy: Always, {ports}}}]}}"
            );
            check(&format!("{{{metadata}, spec: {spec}, status: {status}}}"), |pod| pod::read(pod, &common));
        }
        check(&format!("{{{metadata}, spec: {{hostNetwork: true}}}}"), |pod| pod::read(pod, &common));
        for cidrs in ["podCIDR: 10.0.0.0/24", "podCIDRs: [10.0.0.0/24, '2001:db8::/64']"] {
            let status = "addresses: [{type: InternalIP, address: 192.0.2.1}, {type: ExternalIP, address: 203.0.113.1}], \
                          conditions: [{type: Ready, status: 'True'}, {type: NetworkUnavailable, status: 'False', reason: R, message: m}]";
            let text = format!("{{{metadata}, spec: {{{cidrs}}}, status: {{{status}}}}}");
            check(&text, |node| node::read(node, "n1"));
            check(&text, |node| node::read(node, "n2"));
        }
        check(&format!("{{{metadata}}}"), namespace::read);
    }

    #[test]
    fn an_object_without_its_form_has_its_name_and_hides_no_other() {
        let mut wrong = a_pod();
        wrong["spec"]["containers"] = "none".into();
        let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}, "items": [wrong, a_pod()]});
        let list: ObjectList<Guarded<Pod>> = serde_json::from_str(&list.to_string()).unwrap();
        let unreadable = list.items[0].0.as_ref().unwrap_err();
        assert!(unreadable.error.contains("expected a sequence"), "{}", unreadable.error);
        assert_eq!(list.items[0].meta().name.as_deref(), Some("a"));
        assert!(list.items[1].0.is_ok());
    }

    #[test]
    fn what_is_wrong_in_a_field_that_is_not_read_is_no_problem() {
        let mut odd = a_pod();
        odd["spec"]["volumes"] = 7.into();
        assert!(serde_json::from_value::<Guarded<Pod>>(odd).unwrap().0.is_ok());
    }

    #[test]
    fn it_is_read_from_a_watch_in_whatever_order_the_fields_come() {
        for text in [
            format!("{{\"type\":\"ADDED\",\"object\":{}}}", a_pod()),
            format!("{{\"object\":{},\"type\":\"ADDED\"}}", a_pod()),
        ] {
            let event: WatchEvent<Guarded<Pod>> = serde_json::from_str(&text).unwrap();
            let WatchEvent::Added(pod) = event else { panic!("{text}") };
            assert_eq!(pod.meta().resource_version.as_deref(), Some("7"));
        }
    }
}
