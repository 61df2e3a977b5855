//! Bodies in Kubernetes' protobuf encoding, which kubectl's imperative commands insist on.
//!
//! Decodes the kinds that those commands send; field numbers are those of the `generated.proto` files of
//! `k8s.io/api` and `k8s.io/apimachinery`. A kind or a field that is not in the table is refused, never dropped.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use crate::apiserver::registry::rfc3339;
use crate::apiserver::status::ApiError;
use serde_json::{Map, Value};

pub(super) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// What every such body begins with.
const MAGIC: &[u8] = b"k8s\0";

/// Messages and their fields, written `name=number:type`.
///
/// `[T]` is a list, `{T}` a map from strings. Go writes plain numbers, booleans and strings even when they are
/// unset, so their zero means absence; with a question mark the zero counts. `skip` is what servers fill in.
const MESSAGES: &[(&str, &str)] = &[
    ("Unknown", "type=1:TypeMeta raw=2:raw encoding=3:string form=4:string"),
    ("TypeMeta", "apiVersion=1:string kind=2:string"),
    (
        "ObjectMeta",
        "name=1:string generateName=2:string namespace=3:string selfLink=4:string uid=5:string \
         resourceVersion=6:string generation=7:int creationTimestamp=8:time deletionTimestamp=9:time \
         deletionGracePeriodSeconds=10:int? labels=11:{string} annotations=12:{string} \
         ownerReferences=13:[OwnerReference] finalizers=14:[string] managedFields=17:skip",
    ),
    (
        "OwnerReference",
        "kind=1:string name=3:string uid=4:string apiVersion=5:string controller=6:bool? blockOwnerDeletion=7:bool?",
    ),
    ("LabelSelector", "matchLabels=1:{string} matchExpressions=2:[LabelSelectorRequirement]"),
    ("LabelSelectorRequirement", "key=1:string operator=2:string values=3:[string]"),
    (
        "DeleteOptions",
        "gracePeriodSeconds=1:int? preconditions=2:Preconditions orphanDependents=3:bool? \
         propagationPolicy=4:string dryRun=5:[string] \
         ignoreStoreReadErrorWithClusterBreakingPotential=6:bool?",
    ),
    ("Preconditions", "uid=1:string resourceVersion=2:string"),
    ("Namespace", "metadata=1:ObjectMeta spec=2:NamespaceSpec status=3:skip"),
    ("NamespaceSpec", "finalizers=1:[string]"),
    ("ConfigMap", "metadata=1:ObjectMeta data=2:{string} binaryData=3:{bytes} immutable=4:bool?"),
    ("Secret", "metadata=1:ObjectMeta data=2:{bytes} type=3:string stringData=4:{string} immutable=5:bool?"),
    (
        "ServiceAccount",
        "metadata=1:ObjectMeta imagePullSecrets=3:[LocalObjectReference] automountServiceAccountToken=4:bool?",
    ),
    ("LocalObjectReference", "name=1:string"),
    ("Service", "metadata=1:ObjectMeta spec=2:ServiceSpec status=3:skip"),
    (
        "ServiceSpec",
        "ports=1:[ServicePort] selector=2:{string} clusterIP=3:string type=4:string externalIPs=5:[string] \
         sessionAffinity=7:string loadBalancerIP=8:string loadBalancerSourceRanges=9:[string] \
         externalName=10:string externalTrafficPolicy=11:string healthCheckNodePort=12:int \
         publishNotReadyAddresses=13:bool ipFamilyPolicy=17:string clusterIPs=18:[string] ipFamilies=19:[string] \
         allocateLoadBalancerNodePorts=20:bool? loadBalancerClass=21:string internalTrafficPolicy=22:string \
         trafficDistribution=23:string",
    ),
    (
        "ServicePort",
        "name=1:string protocol=2:string port=3:int targetPort=4:either nodePort=5:int appProtocol=6:string",
    ),
    ("Deployment", "metadata=1:ObjectMeta spec=2:DeploymentSpec status=3:skip"),
    (
        "DeploymentSpec",
        "replicas=1:int? selector=2:LabelSelector template=3:PodTemplateSpec strategy=4:DeploymentStrategy \
         minReadySeconds=5:int revisionHistoryLimit=6:int? paused=7:bool progressDeadlineSeconds=9:int?",
    ),
    ("DeploymentStrategy", "type=1:string rollingUpdate=2:RollingUpdate"),
    ("RollingUpdate", "maxUnavailable=1:either maxSurge=2:either"),
    ("Job", "metadata=1:ObjectMeta spec=2:JobSpec status=3:skip"),
    (
        "JobSpec",
        "parallelism=1:int? completions=2:int? activeDeadlineSeconds=3:int? selector=4:LabelSelector \
         manualSelector=5:bool? template=6:PodTemplateSpec backoffLimit=7:int? ttlSecondsAfterFinished=8:int? \
         completionMode=9:string suspend=10:bool?",
    ),
    ("CronJob", "metadata=1:ObjectMeta spec=2:CronJobSpec status=3:skip"),
    (
        "CronJobSpec",
        "schedule=1:string startingDeadlineSeconds=2:int? concurrencyPolicy=3:string suspend=4:bool? \
         jobTemplate=5:JobTemplateSpec successfulJobsHistoryLimit=6:int? failedJobsHistoryLimit=7:int? \
         timeZone=8:string",
    ),
    ("JobTemplateSpec", "metadata=1:ObjectMeta spec=2:JobSpec"),
    ("PodTemplateSpec", "metadata=1:ObjectMeta spec=2:PodSpec"),
    (
        "PodSpec",
        "containers=2:[Container] restartPolicy=3:string terminationGracePeriodSeconds=4:int? \
         activeDeadlineSeconds=5:int? dnsPolicy=6:string nodeSelector=7:{string} serviceAccountName=8:string \
         serviceAccount=9:string nodeName=10:string hostNetwork=11:bool hostPID=12:bool hostIPC=13:bool \
         imagePullSecrets=15:[LocalObjectReference] hostname=16:string subdomain=17:string schedulerName=19:string \
         initContainers=20:[Container] automountServiceAccountToken=21:bool? priorityClassName=24:string \
         priority=25:int? runtimeClassName=29:string enableServiceLinks=30:bool? preemptionPolicy=31:string",
    ),
    (
        "Container",
        "name=1:string image=2:string command=3:[string] args=4:[string] workingDir=5:string \
         ports=6:[ContainerPort] env=7:[EnvVar] resources=8:ResourceRequirements terminationMessagePath=13:string \
         imagePullPolicy=14:string stdin=16:bool stdinOnce=17:bool tty=18:bool terminationMessagePolicy=20:string \
         restartPolicy=24:string",
    ),
    ("ContainerPort", "name=1:string hostPort=2:int containerPort=3:int protocol=4:string hostIP=5:string"),
    ("EnvVar", "name=1:string value=2:string"),
    ("ResourceRequirements", "limits=1:{quantity} requests=2:{quantity}"),
    ("Eviction", "metadata=1:ObjectMeta deleteOptions=2:DeleteOptions"),
    ("PodDisruptionBudget", "metadata=1:ObjectMeta spec=2:PodDisruptionBudgetSpec status=3:skip"),
    (
        "PodDisruptionBudgetSpec",
        "minAvailable=1:either selector=2:LabelSelector maxUnavailable=3:either unhealthyPodEvictionPolicy=4:string",
    ),
    (
        "PriorityClass",
        "metadata=1:ObjectMeta value=2:int? globalDefault=3:bool description=4:string preemptionPolicy=5:string",
    ),
    ("Role", "metadata=1:ObjectMeta rules=2:[PolicyRule]"),
    ("ClusterRole", "metadata=1:ObjectMeta rules=2:[PolicyRule]"),
    (
        "PolicyRule",
        "verbs=1:[string] apiGroups=2:[string] resources=3:[string] resourceNames=4:[string] \
         nonResourceURLs=5:[string]",
    ),
    ("RoleBinding", "metadata=1:ObjectMeta subjects=2:[Subject] roleRef=3:RoleRef"),
    ("ClusterRoleBinding", "metadata=1:ObjectMeta subjects=2:[Subject] roleRef=3:RoleRef"),
    ("Subject", "kind=1:string apiGroup=2:string name=3:string namespace=4:string"),
    ("RoleRef", "apiGroup=1:string kind=2:string name=3:string"),
    ("SelfSubjectAccessReview", "metadata=1:ObjectMeta spec=2:SelfSubjectAccessReviewSpec status=3:skip"),
    (
        "SelfSubjectAccessReviewSpec",
        "resourceAttributes=1:ResourceAttributes nonResourceAttributes=2:NonResourceAttributes",
    ),
    (
        "ResourceAttributes",
        "namespace=1:string verb=2:string group=3:string version=4:string resource=5:string subresource=6:string \
         name=7:string",
    ),
    ("NonResourceAttributes", "path=1:string verb=2:string"),
    ("SelfSubjectRulesReview", "metadata=1:ObjectMeta spec=2:SelfSubjectRulesReviewSpec status=3:skip"),
    ("SelfSubjectRulesReviewSpec", "namespace=1:string"),
    ("SelfSubjectReview", "metadata=1:ObjectMeta status=2:skip"),
];

/// The object in a protobuf body, as JSON has it.
pub(super) fn decode(body: &[u8]) -> Result<Value, ApiError> {
    let envelope = body.strip_prefix(MAGIC).ok_or_else(|| broken("the prefix is missing"))?;
    let (mut kind, mut raw) = (Value::Null, &[][..]);
    for field in Fields(envelope) {
        match field? {
            (1, Wire::Bytes(inner)) => kind = message("TypeMeta", inner)?,
            (2, Wire::Bytes(inner)) => raw = inner,
            _ => {}
        }
    }
    let name = kind.get("kind").and_then(Value::as_str).unwrap_or_default();
    let mut object = message(name, raw)?;
    if let (Value::Object(object), Value::Object(kind)) = (&mut object, &kind) {
        object.extend(kind.clone());
    }
    Ok(object)
}

fn message(name: &str, bytes: &[u8]) -> Result<Value, ApiError> {
    let unknown =
        |what: String| ApiError::unsupported_media(&what, &["application/json", "application/yaml"]);
    let Some((_, fields)) = MESSAGES.iter().find(|(n, _)| *n == name) else {
        return Err(unknown(format!("{MEDIA_TYPE} of {name}")));
    };
    let mut object = Map::new();
    for field in Fields(bytes) {
        let (number, wire) = field?;
        let found = fields.split_whitespace().filter_map(|f| f.split_once('=')).find_map(|(field, rest)| {
            let (n, kind) = rest.split_once(':')?;
            (n.parse() == Ok(number)).then_some((field, kind))
        });
        let Some((field, kind)) = found else {
            return Err(unknown(format!("{MEDIA_TYPE} with field {number} in {name}")));
        };
        let inside = |open: char, close: char| kind.strip_prefix(open).and_then(|k| k.strip_suffix(close));
        if let Some(item) = inside('[', ']') {
            let list = object.entry(field).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(list) = list {
                list.push(single(item, &wire)?);
            }
        } else if let Some(item) = inside('{', '}') {
            let (key, value) = entry(item, &wire)?;
            let map = object.entry(field).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(map) = map {
                map.insert(key, value);
            }
        } else if kind != "skip" {
            let value = single(kind.trim_end_matches('?'), &wire)?;
            let zero = value == 0 || value == false || value == "" || value.is_null();
            if !zero || (kind.ends_with('?') && !value.is_null()) {
                object.insert(field.to_owned(), value);
            }
        }
    }
    Ok(Value::Object(object))
}

fn single(kind: &str, wire: &Wire<'_>) -> Result<Value, ApiError> {
    match (kind, wire) {
        ("int", Wire::Number(n)) => Ok(n.cast_signed().into()),
        ("bool", Wire::Number(n)) => Ok((*n != 0).into()),
        ("string", Wire::Bytes(bytes)) => text(bytes).map(Value::from),
        ("bytes", Wire::Bytes(bytes)) => Ok(base64(bytes).into()),
        ("quantity", Wire::Bytes(bytes)) => match Fields(bytes).next().transpose()? {
            Some((1, Wire::Bytes(inner))) => text(inner).map(Value::from),
            _ => Ok("0".into()),
        },
        ("time", Wire::Bytes(bytes)) => match Fields(bytes).next().transpose()? {
            Some((1, Wire::Number(seconds))) => {
                let at = jiff::Timestamp::from_second(seconds.cast_signed());
                at.map(|at| rfc3339(at).into()).map_err(|error| broken(&error.to_string()))
            }
            _ => Ok(Value::Null),
        },
        ("either", Wire::Bytes(bytes)) => {
            let (mut is_text, mut number, mut name) = (false, 0, String::new());
            for field in Fields(bytes) {
                match field? {
                    (1, Wire::Number(n)) => is_text = n == 1,
                    (2, Wire::Number(n)) => number = n.cast_signed(),
                    (3, Wire::Bytes(inner)) => name = text(inner)?,
                    _ => {}
                }
            }
            // Zero stands for an unset port; no field of this type means anything by it but a rolling update's.
            Ok(if is_text { name.into() } else { number.into() })
        }
        (name, Wire::Bytes(bytes)) => message(name, bytes),
        (name, Wire::Number(_)) => Err(broken(&format!("a number where {name} belongs"))),
    }
}

fn entry(kind: &str, wire: &Wire<'_>) -> Result<(String, Value), ApiError> {
    let Wire::Bytes(bytes) = wire else { return Err(broken("a number where a map's entry belongs")) };
    let (mut key, mut value) = (String::new(), Value::from(""));
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Bytes(inner)) => key = text(inner)?,
            (2, inner) => value = single(kind, &inner)?,
            _ => {}
        }
    }
    Ok((key, value))
}

enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message in the order in which they come.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>), ApiError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field().ok_or_else(|| broken("it ends in the middle of a field"));
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Wire<'a>)> {
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Number(self.varint()?),
            1 => Wire::Bytes(self.take(8)?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Bytes(self.take(4)?),
            _ => return None,
        };
        Some((tag >> 3, wire))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(first & 0x7f).checked_shl(shift)?;
            if first & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

fn text(bytes: &[u8]) -> Result<String, ApiError> {
    String::from_utf8(bytes.to_vec()).map_err(|error| broken(&error.to_string()))
}

fn broken(why: &str) -> ApiError {
    ApiError::bad_request(format!("error decoding the body as protobuf: {why}"))
}

/// RFC 4648 with padding, as JSON carries bytes.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or_default());
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for (place, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let letter = usize::try_from((group >> shift) & 63).ok().and_then(|i| LETTERS.get(i));
            let padded = place > chunk.len();
            encoded.push(if padded { '=' } else { letter.copied().map_or('=', char::from) });
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_config_map_as_kubectl_sends_it_is_decoded() {
        // From `kubectl create configmap cm --from-literal=a=b`, laid out by hand.
        let metadata = b"\x0a\x02cm\x12\x00\x1a\x07default\x38\x00\x42\x00";
        let mut raw = vec![0x0a, u8::try_from(metadata.len()).unwrap()];
        raw.extend_from_slice(metadata);
        raw.extend_from_slice(b"\x12\x06\x0a\x01a\x12\x01b");
        let mut body = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12".to_vec();
        body.push(u8::try_from(raw.len()).unwrap());
        body.extend_from_slice(&raw);
        body.extend_from_slice(b"\x1a\x00\x22\x00");
        let expected = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm", "namespace": "default"},
            "data": {"a": "b"},
        });
        assert_eq!(decode(&body).unwrap(), expected);
        for end in 0..body.len() - 4 {
            assert!(decode(&body[..end]).is_err() || end < body.len(), "never panics");
        }
    }

    #[test]
    fn bytes_are_written_in_base64() {
        for (bytes, expected) in
            [("", ""), ("a", "YQ=="), ("ab", "YWI="), ("abc", "YWJj"), ("abcd", "YWJjZA==")]
        {
            assert_eq!(base64(bytes.as_bytes()), expected);
        }
    }
}
