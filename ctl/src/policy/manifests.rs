//! Objects from files, as `kubectl apply` would take them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
    batch::v1::{CronJob, Job},
    core::v1::PodTemplateSpec,
};
use kube::core::ObjectMeta;
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::Value;

use super::source::Source;

/// The namespace of objects that name none.
const DEFAULT_NAMESPACE: &str = "default";

/// Reads files, and all `.yaml`, `.yml` and `.json` files below folders, in the order of their names. Hidden files and
/// folders are passed over.
pub(crate) fn load(paths: &[PathBuf]) -> anyhow::Result<Source> {
    let mut source = Source::default();
    let mut files = Vec::new();
    for path in paths {
        let before = files.len();
        let about = fs::metadata(path).with_context(|| format!("read manifests {}", path.display()))?;
        if about.is_dir() {
            collect(path, &mut files)?;
        } else {
            files.push(path.clone());
        }
        if files.len() == before {
            bail!("read manifests {}: no .yaml, .yml or .json file is below it", path.display());
        }
    }
    for file in &files {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        read(&mut source, file, &text)?;
    }
    Ok(source.complete())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let attempt = || format!("list {}", folder.display());
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).with_context(attempt)? {
        entries.push(entry.with_context(attempt)?);
    }
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        // A link to a folder is not followed: it could lead back here.
        if entry.file_type().with_context(attempt)?.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json")
            && path.is_file()
        {
            files.push(path);
        }
    }
    Ok(())
}

/// What every object begins with.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    /// A file for `margayctl policy test` has these, and may lie beside manifests.
    #[serde(default)]
    cases: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct List {
    #[serde(default)]
    items: Vec<Value>,
}

/// One document of a file.
struct Document {
    /// Its first line, from 1.
    line: usize,
    /// Its text, after as many empty lines as there are before it, so that errors name the file's own.
    text: String,
}

/// Reads the documents of a file.
pub(super) fn read(source: &mut Source, file: &Path, text: &str) -> anyhow::Result<()> {
    for document in documents(text) {
        // `None`: a document of comments.
        let head: Option<Head> = yaml(file, &document.text)?;
        let Some(head) = head else { continue };
        let origin = format!("{}:{}", file.display(), document.line);
        if head.kind.is_empty() && head.cases.is_some() {
            source.pass_over("file of expectations".to_owned());
            continue;
        }
        if head.kind.is_empty() {
            bail!("{origin}: this is no Kubernetes object: it has no kind");
        }
        if !head.kind.ends_with("List") {
            add(source, &head, &origin, &Form::Yaml(file, &document.text))?;
            continue;
        }
        let list: List = yaml(file, &document.text)?;
        for (index, item) in list.items.into_iter().enumerate() {
            let origin = format!("{origin}, items[{index}]");
            let own: Head = serde_json::from_value(item.clone()).with_context(|| origin.clone())?;
            // The items of a PodList need not say that they are Pods.
            let kind = if own.kind.is_empty() { head.kind.replace("List", "") } else { own.kind };
            let api_version = if own.api_version.is_empty() { &head.api_version } else { &own.api_version };
            let own = Head { api_version: api_version.clone(), kind, cases: None };
            add(source, &own, &origin, &Form::Item(item))?;
        }
    }
    Ok(())
}

/// Splits where a line begins with `---` or `...`: YAML has these for nothing else, not within text blocks either.
fn documents(text: &str) -> Vec<Document> {
    let marks = |line: &str| {
        let rest = line.strip_prefix("---").or_else(|| line.strip_prefix("..."));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
    };
    let mut documents = Vec::new();
    let mut current: Vec<&str> = Vec::new();
    let mut first = 0;
    let mut finish = |first: usize, lines: &mut Vec<&str>| {
        // Before the first mark there may be comments and directives alone.
        let blank = |line: &&str| line.trim().is_empty() || line.starts_with(['#', '%']);
        if !lines.iter().all(blank) {
            let lead = lines.iter().take_while(|line| blank(line)).count();
            documents.push(Document {
                line: first + lead + 1,
                text: format!("{}{}\n", "\n".repeat(first), lines.join("\n")),
            });
        }
        lines.clear();
    };
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        if marks(line) {
            finish(first, &mut current);
            first = index;
            // What stands behind the mark is of the document.
            let rest = line.strip_prefix("---").unwrap_or("").trim();
            if !rest.is_empty() && !rest.starts_with('#') {
                current.push(rest);
                continue;
            }
            first = index + 1;
            continue;
        }
        current.push(line);
    }
    finish(first, &mut current);
    documents
}

/// How an object is at hand.
enum Form<'a> {
    Yaml(&'a Path, &'a str),
    Item(Value),
}

impl Form<'_> {
    fn object<T: DeserializeOwned>(&self, origin: &str) -> anyhow::Result<T> {
        match self {
            Self::Yaml(file, text) => yaml(file, text),
            Self::Item(value) => serde_json::from_value(value.clone()).with_context(|| origin.to_owned()),
        }
    }
}

fn yaml<T: DeserializeOwned>(file: &Path, text: &str) -> anyhow::Result<T> {
    serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().map_or_else(String::new, |location| format!(":{}", location.line()));
        anyhow::anyhow!("{}{line}: {}", file.display(), error.without_snippet())
    })
}

fn add(source: &mut Source, head: &Head, origin: &str, form: &Form<'_>) -> anyhow::Result<()> {
    match (head.api_version.as_str(), head.kind.as_str()) {
        ("v1", "Namespace") => source.add_namespace(&form.object(origin)?, origin),
        ("v1", "Pod") => {
            let mut object: k8s_openapi::api::core::v1::Pod = form.object(origin)?;
            settle(&mut object.metadata, "Pod", origin)?;
            source.add_pod(&object, origin);
        }
        ("networking.k8s.io/v1", "NetworkPolicy") => {
            let mut object: k8s_openapi::api::networking::v1::NetworkPolicy = form.object(origin)?;
            settle(&mut object.metadata, "NetworkPolicy", origin)?;
            source.add_policy(&object, origin);
        }
        ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy") => {
            let mut object: margay_policy::v1alpha2::ClusterNetworkPolicy = form.object(origin)?;
            settle(&mut object.metadata, "ClusterNetworkPolicy", origin)?;
            source.add_cluster_policy(&object, origin);
        }
        ("v1", "Node") => {
            let mut object: k8s_openapi::api::core::v1::Node = form.object(origin)?;
            settle(&mut object.metadata, "Node", origin)?;
            source.add_node(&object, origin);
        }
        ("apps/v1", "Deployment") => {
            let object: Deployment = form.object(origin)?;
            template(source, object.metadata, object.spec.map(|spec| spec.template), head, origin)?;
        }
        ("apps/v1", "StatefulSet") => {
            let object: StatefulSet = form.object(origin)?;
            template(source, object.metadata, object.spec.map(|spec| spec.template), head, origin)?;
        }
        ("apps/v1", "DaemonSet") => {
            let object: DaemonSet = form.object(origin)?;
            template(source, object.metadata, object.spec.map(|spec| spec.template), head, origin)?;
        }
        ("apps/v1", "ReplicaSet") => {
            let object: ReplicaSet = form.object(origin)?;
            template(source, object.metadata, object.spec.and_then(|spec| spec.template), head, origin)?;
        }
        ("batch/v1", "Job") => {
            let object: Job = form.object(origin)?;
            template(source, object.metadata, object.spec.map(|spec| spec.template), head, origin)?;
        }
        ("batch/v1", "CronJob") => {
            let object: CronJob = form.object(origin)?;
            let job = object.spec.and_then(|spec| spec.job_template.spec);
            template(source, object.metadata, job.map(|job| job.template), head, origin)?;
        }
        ("v1" | "apps/v1" | "batch/v1", kind) => source.pass_over(kind.to_owned()),
        (group, kind) => source.pass_over(format!("{kind} ({group})")),
    }
    Ok(())
}

fn template(
    source: &mut Source,
    mut meta: ObjectMeta,
    template: Option<PodTemplateSpec>,
    head: &Head,
    origin: &str,
) -> anyhow::Result<()> {
    settle(&mut meta, &head.kind, origin)?;
    let Some(template) = template else { bail!("{origin}: {} has no pod template", head.kind) };
    source.add_template(meta.namespace.as_deref(), &meta.name.unwrap_or_default(), template, origin);
    Ok(())
}

/// Every object has a name, and a namespace even if it names none; where there are none, nobody asks for it.
fn settle(meta: &mut ObjectMeta, kind: &str, origin: &str) -> anyhow::Result<()> {
    if meta.name.as_ref().is_none_or(String::is_empty) {
        bail!("{origin}: {kind} has no metadata.name");
    }
    meta.namespace.get_or_insert_with(|| DEFAULT_NAMESPACE.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Source, read};

    fn names(text: &str) -> (Vec<String>, Option<String>) {
        let mut source = Source::default();
        read(&mut source, Path::new("f.yaml"), text).unwrap();
        (source.objects.pods.keys().map(ToString::to_string).collect(), source.passed_over())
    }

    fn error(text: &str) -> String {
        let mut source = Source::default();
        format!("{:#}", read(&mut source, Path::new("f.yaml"), text).unwrap_err())
    }

    #[test]
    fn pods_come_from_documents_lists_and_templates_of_every_workload() {
        let template = "template: {metadata: {labels: {a: b}}, spec: {containers: []}}";
        let text = format!(
            "# first\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: alone}}\n--- # second\n\
             {{apiVersion: v1, kind: List, items: [{{apiVersion: v1, kind: Pod, metadata: {{namespace: x, name: item}}}}]}}\n---\n\
             {{apiVersion: v1, kind: PodList, items: [{{metadata: {{namespace: x, name: typed}}}}]}}\n---\n---\n\
             {{apiVersion: apps/v1, kind: Deployment, metadata: {{namespace: x, name: de}}, spec: {{{template}}}}}\n---\n\
             {{apiVersion: apps/v1, kind: StatefulSet, metadata: {{namespace: x, name: st}}, spec: {{{template}}}}}\n---\n\
             {{apiVersion: apps/v1, kind: DaemonSet, metadata: {{namespace: x, name: da}}, spec: {{{template}}}}}\n---\n\
             {{apiVersion: apps/v1, kind: ReplicaSet, metadata: {{namespace: x, name: re}}, spec: {{{template}}}}}\n---\n\
             {{apiVersion: batch/v1, kind: Job, metadata: {{namespace: x, name: jo}}, spec: {{{template}}}}}\n---\n\
             {{apiVersion: batch/v1, kind: CronJob, metadata: {{namespace: x, name: cr}}, spec: {{jobTemplate: {{spec: {{{template}}}}}}}}}\n---\n\
             {{apiVersion: v1, kind: Service, metadata: {{name: s}}}}\n---\n\
             {{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {{name: s}}}}\n"
        );
        let (pods, passed_over) = names(&text);
        assert_eq!(
            pods,
            ["default/alone", "x/cr", "x/da", "x/de", "x/item", "x/jo", "x/re", "x/st", "x/typed"]
        );
        assert_eq!(
            passed_over.unwrap(),
            "passed over 2 objects of other kinds: 1 NetworkPolicy (projectcalico.org/v3), 1 Service"
        );
    }

    #[test]
    fn json_with_tabs_and_marks_within_text_are_read() {
        let json =
            "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Pod\",\n\t\"metadata\": {\"name\": \"j\"}\n}\n";
        assert_eq!(names(json).0, ["default/j"]);
        let text = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: t\n  annotations:\n    a: |\n      ---\n      kind: Pod\n";
        assert_eq!(names(text).0, ["default/t"]);
    }

    #[test]
    fn what_does_not_parse_is_named_with_its_line() {
        let good = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\n";
        for (text, expected) in [
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: [}\n", "f.yaml:7: "),
            ("apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels: 5\n", "f.yaml:9: "),
            ("metadata: {name: a}\n", "f.yaml:5: this is no Kubernetes object: it has no kind"),
            ("apiVersion: v1\nkind: Pod\n", "f.yaml:5: Pod has no metadata.name"),
            ("{{ if .Values.policy }}\nkind: Pod\n", "f.yaml:5: "),
        ] {
            let said = error(&format!("{good}{text}"));
            assert!(said.starts_with(expected), "{text}: {said}");
        }
    }
}
