//! A runtime calls the CNI plugin with any environment and any configuration: a line for each variable, an empty line, then what
//! standard input has.
#![no_main]
#![allow(dead_code)]

#[path = "../../cni-plugin/src/config.rs"]
mod config;
#[path = "../../cni-plugin/src/result.rs"]
mod result;

use config::{Command, Config, Environment, supported_versions, version_of};
use libfuzzer_sys::fuzz_target;
use margay_fuzz::halves;
use result::{Added, Code, Failure, Interface};
use serde_json::Value;

const COMMANDS: [Command; 5] = [Command::Add, Command::Del, Command::Check, Command::Gc, Command::Status];

fuzz_target!(|input: &[u8]| {
    let (head, stdin) = halves(input);
    let head = String::from_utf8_lossy(head);
    let variables = head.lines().filter_map(|line| line.split_once('='));
    let environment = Environment::of(variables.map(|(key, value)| (key.into(), value.into())));
    let version = version_of(stdin);
    assert!(supported_versions().contains(&version.as_str()), "an answer in version {version}");

    // All that a runtime is told can be read by it.
    let told = |failure: &Failure| {
        let told: Value = serde_json::from_str(&failure.to_json(&version)).expect("JSON");
        assert!(told["code"].is_u64() && told["msg"].as_str().is_some_and(|said| !said.is_empty()), "{told}");
    };
    if let Err(failure) = environment.command() {
        assert!(failure.code == Code::Environment && failure.message.contains("CNI_"), "{}", failure.message);
        told(&failure);
    }
    match environment.attachment() {
        Ok(attachment) => {
            let id = attachment.owner.container_id();
            assert!(id.len() <= 96 && !id.contains('/') && !id.starts_with('.'), "container ID {id}");
        }
        Err(failure) => told(&failure),
    }
    match environment.args() {
        Ok(args) => assert!(args.mac.is_none_or(|mac| mac.is_unicast())),
        Err(failure) => {
            assert!(failure.message.starts_with("CNI_ARGS"), "{}", failure.message);
            told(&failure);
        }
    }

    let read = COMMANDS.map(|command| Config::parse(stdin, command));
    for read in &read {
        match read {
            Ok(config) => accepted(config),
            Err(failure) => told(failure),
        }
    }
    let [add, del, ..] = &read;
    if let Ok(add) = add {
        // What was added can be taken down, with the same state.
        let del = del.as_ref().unwrap_or_else(|failure| panic!("no DEL: {}", failure.message));
        assert_eq!((&add.run_dir, &add.state_dir), (&del.run_dir, &del.state_dir));
        assert!(!add.name.contains('/') && !add.name.starts_with('.'), "name {}", add.name);
    }
});

/// A configuration that is taken gives a result that can be read.
fn accepted(config: &Config) {
    let interface =
        |name: &str| Interface { name: name.into(), mac: String::new(), mtu: None, sandbox: String::new() };
    let ours = Added {
        interfaces: vec![interface("mgy0123456789ab"), interface("eth0")],
        ips: vec![("192.0.2.1/32".into(), None, 1)],
        routes: vec![],
    };
    let result = ours.to_json(config.version, config.prev_result.as_ref(), config.dns.as_ref());
    let result: Value = serde_json::from_str(&result).expect("JSON");
    assert_eq!(result["cniVersion"], config.version.text());
    let before = config.prev_result.as_ref().and_then(|it| it["interfaces"].as_array()).map_or(0, Vec::len);
    let interfaces = result["interfaces"].as_array().expect("interfaces");
    assert_eq!(interfaces.len(), before + 2, "what plugins before us made stays");
    let ip = result["ips"].as_array().and_then(|ips| ips.last()).expect("our address");
    assert_eq!(ip["interface"].as_u64(), Some(before as u64 + 1), "the address is the pod's end's");
}
