//! The rules of admission, without HTTP.

use super::{Asked, Operation};
use crate::apiserver::{ApiServer, User};
use serde_json::{Value, json};

const VERSION: &str = "admissionregistration.k8s.io/v1";

/// A policy about all writes of pods, with these fields more in its specification.
fn policy(more: &Value) -> Value {
    let mut spec = json!({
        "matchConstraints": {"resourceRules": [rule("", "pods")]},
        "validations": [{"expression": "false"}],
    });
    for (field, value) in more.as_object().unwrap() {
        spec[field] = value.clone();
    }
    json!({"apiVersion": VERSION, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "p"}, "spec": spec})
}

fn binding() -> Value {
    json!({
        "apiVersion": VERSION, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "b"},
        "spec": {"policyName": "p", "validationActions": ["Deny"]},
    })
}

fn rule(group: &str, resource: &str) -> Value {
    json!({"apiGroups": [group], "apiVersions": ["v1"], "operations": ["*"], "resources": [resource]})
}

fn pod(name: &str) -> Value {
    let metadata = json!({"name": name, "namespace": "default"});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"nodeName": "n1"}})
}

fn agent() -> User {
    User::service_account("kube-system", "margay").on_node("n1")
}

/// What a policy, bound, answers to a write by `user` of what `path` names: a plural of the core with its subresource.
fn ask(
    policy: &Value,
    user: &User,
    path: &str,
    operation: Operation,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Result<(), (u16, String)> {
    let api = ApiServer::new();
    api.put_raw(policy.clone()).unwrap();
    api.put_raw(binding()).unwrap();
    let (plural, subresource) = path.split_once('/').unwrap_or((path, ""));
    let resource = api.registry().resources.find("", "v1", plural).unwrap();
    let name = object.or(old).unwrap()["metadata"]["name"].as_str().unwrap();
    let (namespace, resource) = ("default", resource.as_ref());
    let asked = Asked { user, operation, resource, subresource, namespace, name, dry_run: false };
    let answer = api.write(|registry, _| registry.admit(&asked, object, old));
    assert_eq!(api.denials().len(), usize::from(answer.is_err()));
    answer.map_err(|error| (error.code, error.message))
}

fn on_create(spec: &Value) -> Result<(), (u16, String)> {
    ask(&policy(spec), &agent(), "pods", Operation::Create, Some(&pod("a")), None)
}

#[test]
fn a_denial_names_policy_binding_and_reason() {
    let denied = |why: &str| {
        format!(
            "pods \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: {why}"
        )
    };
    for (validation, code, why) in [
        (json!({"expression": "1 == 2"}), 422, "failed expression: 1 == 2"),
        (json!({"expression": "false", "message": "no"}), 422, "no"),
        (json!({"expression": "false", "message": "no", "reason": "Forbidden"}), 403, "no"),
        (json!({"expression": "false", "messageExpression": "'no ' + object.metadata.name"}), 422, "no a"),
        // One that has no answer is as if it were not there.
        (json!({"expression": "false", "message": "no", "messageExpression": "object.absent"}), 422, "no"),
        (
            json!({"expression": "object.spec.absent == 1"}),
            422,
            "expression 'object.spec.absent == 1' resulted in error: No such key: absent",
        ),
        (json!({"expression": "'text'"}), 422, "expression ''text'' is neither true nor false"),
    ] {
        let said = on_create(&json!({"validations": [{"expression": "true"}, validation]}));
        assert_eq!(said, Err((code, denied(why))));
    }
    assert_eq!(on_create(&json!({"validations": [{"expression": "object.spec.nodeName == 'n1'"}]})), Ok(()));
}

#[test]
fn a_policy_is_about_what_its_rules_name_and_do_not_exclude() {
    let judged = |rules: Value, path: &str, operation: Operation| {
        let policy = policy(&json!({"matchConstraints": rules}));
        ask(&policy, &agent(), path, operation, Some(&pod("a")), Some(&pod("a"))).is_err()
    };
    let of = |field: &str, value: Value| {
        let mut rule = rule("", "pods");
        rule[field] = value;
        json!({"resourceRules": [rule]})
    };
    let update = Operation::Update;
    for (rules, path, operation, expected) in [
        (of("resources", json!(["pods"])), "pods", update, true),
        (of("resources", json!(["pods"])), "pods/status", update, false),
        (of("resources", json!(["nodes", "pods/status"])), "pods/status", update, true),
        (of("resources", json!(["nodes", "pods/status"])), "pods", update, false),
        (of("resources", json!(["*"])), "pods", update, true),
        (of("resources", json!(["*"])), "pods/status", update, false),
        (of("resources", json!(["*/*"])), "pods/status", update, true),
        (of("resources", json!(["pods/*"])), "nodes/status", update, false),
        (of("resources", json!(["pods/binding"])), "pods/binding", Operation::Create, true),
        (of("operations", json!(["CREATE"])), "pods", update, false),
        (of("operations", json!(["CREATE", "DELETE"])), "pods", Operation::Delete, true),
        (of("apiGroups", json!(["apps"])), "pods", update, false),
        (of("apiGroups", json!(["*"])), "pods", update, true),
        (of("apiVersions", json!(["v2"])), "pods", update, false),
        (of("resourceNames", json!(["b"])), "pods", update, false),
        (of("resourceNames", json!(["a"])), "pods", update, true),
        (of("scope", json!("Cluster")), "pods", update, false),
        (of("scope", json!("Namespaced")), "pods", update, true),
        (
            json!({"resourceRules": [rule("", "*")], "excludeResourceRules": [rule("", "pods")]}),
            "pods",
            update,
            false,
        ),
    ] {
        assert_eq!(judged(rules.clone(), path, operation), expected, "{rules} {path} {operation:?}");
    }
}

#[test]
fn an_object_of_another_version_or_group_is_judged_as_the_one_that_a_rule_names_unless_it_is_to_be_exact() {
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "a", "namespace": "default"}, "message": "text",
    });
    let judged = |spec: Value| {
        ask(&policy(&spec), &agent(), "events", Operation::Create, Some(&event), None).map_err(|(_, why)| why)
    };
    let rules =
        |policy: &str| json!({"resourceRules": [rule("events.k8s.io", "events")], "matchPolicy": policy});
    let is_renamed = json!([{"expression":
        "object.note == 'text' && object.apiVersion == 'events.k8s.io/v1' && request.resource.group == 'events.k8s.io' \
         && request.requestResource.group == ''"}]);
    let renamed = json!({"matchConstraints": rules("Equivalent"), "validations": is_renamed});
    assert_eq!(judged(renamed), Ok(()));
    assert!(judged(json!({"matchConstraints": rules("Equivalent")})).is_err());
    assert_eq!(judged(json!({"matchConstraints": rules("Exact")})), Ok(()));
}

#[test]
fn expressions_see_the_objects_and_the_request_as_the_verb_has_them() {
    let (pod, node) = (pod("a"), "'authentication.kubernetes.io/node-name'");
    for (operation, object, old, expression) in [
        (Operation::Create, Some(&pod), None, "object.metadata.name == 'a' && oldObject == null"),
        (Operation::Update, Some(&pod), Some(&pod), "object == oldObject && request.operation == 'UPDATE'"),
        (Operation::Delete, None, Some(&pod), "object == null && oldObject.spec.nodeName == 'n1'"),
    ] {
        let more = format!(
            "{expression} && request.userInfo.username == 'system:serviceaccount:kube-system:margay' && \
             'system:serviceaccounts:kube-system' in request.userInfo.groups && \
             request.userInfo.extra[{node}] == ['n1'] && request.name == 'a' && request.namespace == 'default' && \
             request.kind.kind == 'Pod' && request.subResource == '' && !request.dryRun"
        );
        let policy = policy(&json!({"validations": [{"expression": more}]}));
        assert_eq!(ask(&policy, &agent(), "pods", operation, object, old), Ok(()), "{operation:?}");
    }
    let without = policy(&json!({"validations": [{"expression": "!has(request.userInfo.extra)"}]}));
    let nowhere = User::service_account("kube-system", "margay");
    assert_eq!(ask(&without, &nowhere, "pods", Operation::Create, Some(&pod), None), Ok(()));
}

#[test]
fn a_variable_is_asked_for_when_it_is_used_and_fails_who_uses_it() {
    let variables = json!([
        {"name": "bad", "expression": "object.absent"},
        {"name": "name", "expression": "object.metadata.name"},
        {"name": "both", "expression": "variables.name + variables.name"},
    ]);
    let said = |expression: &str| {
        let validations = json!([{"expression": expression}]);
        on_create(&json!({"variables": variables, "validations": validations})).map_err(|(_, why)| why)
    };
    assert_eq!(said("variables.both == 'aa'"), Ok(()));
    assert_eq!(said("[1].all(x, variables.name == 'a')"), Ok(()));
    assert_eq!(said("true || variables.bad"), Ok(()));
    let error = said("variables.bad == 1").unwrap_err();
    assert!(error.contains("composited variable \"bad\" fails to evaluate: "), "{error}");
    assert!(error.ends_with("No such key: absent"), "{error}");
}

#[test]
fn conditions_choose_and_the_failure_policy_decides_what_an_expression_without_an_answer_means() {
    let of = |conditions: &[&str], failure: &str, validation: &str| {
        let conditions: Vec<Value> =
            conditions.iter().map(|it| json!({"name": "c", "expression": it})).collect();
        let validations = json!([{"expression": validation}, {"expression": "true"}]);
        let spec =
            json!({"matchConditions": conditions, "failurePolicy": failure, "validations": validations});
        on_create(&spec).is_ok()
    };
    for (conditions, failure, validation, expected) in [
        (&["true"][..], "Fail", "false", false),
        (&["true", "false"], "Fail", "false", true),
        // One that is false decides.
        (&["object.absent", "false"], "Fail", "false", true),
        (&["object.absent"], "Fail", "true", false),
        (&["object.absent"], "Ignore", "false", true),
        (&[], "Fail", "object.absent", false),
        (&[], "Ignore", "object.absent", true),
        (&[], "Ignore", "false", false),
    ] {
        assert_eq!(of(conditions, failure, validation), expected, "{conditions:?} {failure} {validation}");
    }
}

#[test]
fn nobody_is_asked_without_a_binding_about_policies_themselves_or_by_a_policy_that_is_gone() {
    let api = ApiServer::new();
    api.put_raw(policy(&json!({"matchConstraints": {"resourceRules": [rule("*", "*")]}}))).unwrap();
    let user = agent();
    let ask = |group: &str, plural: &str| {
        let resource = api.registry().resources.find(group, "v1", plural).unwrap();
        let resource = resource.as_ref();
        let operation = Operation::Create;
        let asked = Asked {
            user: &user,
            operation,
            resource,
            subresource: "",
            namespace: "default",
            name: "a",
            dry_run: false,
        };
        api.write(|registry, _| registry.admit(&asked, Some(&pod("a")), None)).is_ok()
    };
    assert!(ask("", "pods"));
    api.put_raw(binding()).unwrap();
    assert!(!ask("", "pods"));
    assert!(ask(super::GROUP, "validatingadmissionpolicies"));
    // Another version of it counts at once.
    api.put_raw(policy(&json!({"validations": [{"expression": "true"}]}))).unwrap();
    assert!(ask("", "pods"));
    api.remove_raw(VERSION, "ValidatingAdmissionPolicy", "", "p");
    assert!(ask("", "pods"));
}

#[test]
fn what_this_server_does_not_know_of_a_policy_is_refused_by_the_name_of_its_field() {
    let complaints = |object: &Value, complain: fn(&Value, &mut Vec<crate::apiserver::Cause>)| {
        let mut causes = Vec::new();
        complain(object, &mut causes);
        let causes = causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message));
        causes.collect::<Vec<_>>().join("\n")
    };
    assert_eq!(complaints(&policy(&json!({})), super::complain_of_policy), "");
    let selector = json!({"matchLabels": {"a": "b"}});
    let constraints = |field: &str, value: Value| {
        let mut constraints = json!({"resourceRules": [rule("", "pods")]});
        constraints[field] = value;
        json!({"matchConstraints": constraints})
    };
    let validation =
        |field: &str, value: &str| json!({"validations": [{"expression": "true", field: value}]});
    for (spec, expected) in [
        (
            json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}}),
            "spec.paramKind: Forbidden: this API",
        ),
        (
            json!({"auditAnnotations": [{"key": "a", "valueExpression": "'b'"}]}),
            "spec.auditAnnotations: Forbidden",
        ),
        (constraints("namespaceSelector", selector.clone()), "spec.matchConstraints.namespaceSelector: Forb"),
        (constraints("objectSelector", selector), "spec.matchConstraints.objectSelector: Forbidden"),
        (constraints("matchPolicy", json!("Some")), "spec.matchConstraints.matchPolicy: Unsupported value"),
        (json!({"matchConstraints": {}}), "spec.matchConstraints.resourceRules: Required value"),
        (
            json!({"matchConstraints": {"resourceRules": [{"operations": ["PATCH"]}]}}),
            "spec.matchConstraints.resourceRules[0].operations[0]: Unsupported value: \"PATCH\"",
        ),
        (json!({"validations": []}), "spec.validations: Required value"),
        (json!({"failurePolicy": "Warn"}), "spec.failurePolicy: Unsupported value"),
        (validation("reason", "Gone"), "spec.validations[0].reason: Unsupported value"),
        (
            validation("expression", "1 +"),
            "spec.validations[0].expression: Invalid value: \"1 +\": compilation",
        ),
        (validation("expression", "params.x == 1"), "undeclared reference to 'params'"),
        (validation("expression", "authorizer.path('/')"), "undeclared reference to 'path'"),
        (validation("messageExpression", "variables.x"), "messageExpression: Invalid value: \"variables.x\""),
        (
            json!({"variables": [{"name": "a", "expression": "variables.b"}, {"name": "b", "expression": "1"}]}),
            "spec.variables[0].expression: Invalid value: \"variables.b\": compilation failed: undefined field 'b'",
        ),
        (json!({"variables": [{"name": "a-b", "expression": "1"}]}), "spec.variables[0].name: Invalid value"),
        (
            json!({"variables": [{"name": "a", "expression": "1"}, {"name": "a", "expression": "1"}]}),
            "spec.variables[1].name: Duplicate value",
        ),
        (json!({"matchConditions": [{"name": "a", "expression": ""}]}), "spec.matchConditions[0].expression"),
    ] {
        let said = complaints(&policy(&spec), super::complain_of_policy);
        assert!(said.contains(expected), "{spec}: {said}");
    }
    for (field, value, expected) in [
        ("policyName", json!(""), "spec.policyName: Required value"),
        ("validationActions", json!([]), "spec.validationActions: Required value"),
        (
            "validationActions",
            json!(["Deny", "Audit"]),
            "spec.validationActions[1]: Unsupported value: \"Audit\"",
        ),
        ("paramRef", json!({"name": "a"}), "spec.paramRef: Forbidden"),
        ("matchResources", json!({}), "spec.matchResources: Forbidden"),
    ] {
        let mut binding = binding();
        binding["spec"][field] = value;
        let said = complaints(&binding, super::complain_of_binding);
        assert!(said.contains(expected), "{field}: {said}");
    }
}
