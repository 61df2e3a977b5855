//! The rules of the settings.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    process::Command,
};

use clap::{CommandFactory, Parser};
use margay_api::resource::NetworkConfigSpec;

use super::{Cli, Dataplane, IpamMode, Sources};

fn sources(yaml: &str, flags: &[&str]) -> anyhow::Result<Sources> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("margay.yaml");
    std::fs::write(&path, yaml).unwrap();
    let config = ["margay-node", "--config", path.to_str().unwrap()];
    Sources::read(Cli::try_parse_from(config.iter().chain(flags)).unwrap())
}

fn settings(yaml: &str, flags: &[&str]) -> anyhow::Result<super::Settings> {
    sources(yaml, flags)?.settings(None)
}

fn common(yaml: &str) -> NetworkConfigSpec {
    serde_saphyr::from_str(yaml).unwrap()
}

#[test]
fn the_file_wins_over_what_all_nodes_have_in_common_field_by_field() {
    let sources =
        sources("nodeName: x\noverlay: {port: 8472}\nnatOutgoing: false", &["--dataplane", "ebpf"]).unwrap();
    let common = common(
        "{mtu: 1400, dataplane: nftables, natOutgoing: true, nonMasqueradeCIDRs: [192.0.2.0/24], ipam: {mode: pool}, \
         overlay: {encapsulation: VXLAN, port: 4790, vni: 7}}",
    );
    let settings = sources.settings(Some(&common)).unwrap();
    assert_eq!(settings.mtu.unwrap().octets(), 1400);
    assert_eq!((settings.dataplane, settings.ipam.mode), (Dataplane::Ebpf, IpamMode::Pool));
    let overlay = settings.traffic.overlay;
    assert_eq!((overlay.port, overlay.vni.number()), (8472, 7));
    assert!(overlay.encapsulation != margay_api::resource::Encapsulation::None);
    assert!(!settings.traffic.nat.outgoing);
    assert_eq!(settings.traffic.nat.excluded.len(), 1);
}

#[test]
fn node_address_self_test_and_map_sizes_are_taken_field_by_field_too() {
    let yaml = "nodeName: x\nselfTest: {port: 9100}\nebpf: {flows: 4096}\nnodeAddress: {ipv6: first-found}";
    let common = common(
        "{selfTest: {enabled: false, port: 9101}, ebpf: {flows: 2048, embryos: 2048}, \
         nodeAddress: {ipv4: {interface: [eth0]}, ipv6: {can-reach: '2001:db8::1'}}}",
    );
    let got = sources(yaml, &[]).unwrap().settings(Some(&common)).unwrap();
    assert_eq!(got.self_test, None);
    let expected = "nodeName: x\nselfTest: {port: 9100, enabled: false}\nebpf: {flows: 4096, embryos: 2048}\n\
                    nodeAddress: {ipv4: {interface: [eth0]}, ipv6: first-found}";
    let expected = settings(expected, &[]).unwrap();
    assert_eq!((got.map_sizes, got.node_address), (expected.map_sizes, expected.node_address));
    // Without a file, what all nodes have in common counts.
    let alone = sources("nodeName: x", &[]).unwrap().settings(Some(&common)).unwrap();
    let expected = "nodeName: x\nebpf: {flows: 2048, embryos: 2048}\n\
                    nodeAddress: {ipv4: {interface: [eth0]}, ipv6: {can-reach: '2001:db8::1'}}";
    let expected = settings(expected, &[]).unwrap();
    assert_eq!((alone.map_sizes, alone.node_address), (expected.map_sizes, expected.node_address));
    assert_eq!(settings("nodeName: x", &[]).unwrap().self_test, Some(9097));
    // What the file says in one word, the object says as `method`.
    for word in ["first-found", "kubernetes-internal-ip"] {
        let object = self::common(&format!("nodeAddress: {{ipv4: {{method: {word}}}}}"));
        let got = sources("nodeName: x", &[]).unwrap().settings(Some(&object)).unwrap();
        let file = settings(&format!("nodeName: x\nnodeAddress: {{ipv4: {word}}}"), &[]).unwrap();
        assert_eq!(got.node_address, file.node_address);
    }
}

#[test]
fn what_is_wrong_of_what_all_nodes_have_in_common_is_named() {
    let sources = sources("nodeName: x", &[]).unwrap();
    for (yaml, words) in [
        ("mtu: 100", "mtu is 100; it takes 1280 to"),
        ("dataplane: iptables", "iptables"),
        ("logLevel: 'a=b=c'", "logLevel is `a=b=c`"),
        ("overlay: {vni: 0}", "overlay.vni is 0"),
        ("overlay: {encapsulation: GRE}", "GRE"),
        ("ipam: {mode: dhcp}", "dhcp"),
        ("selfTest: {port: 65536}", "selfTest.port is 65536"),
        ("ebpf: {flows: 1}", "ebpf.flows is 1; it takes 1024 to"),
        ("nodeAddress: {ipv4: {interface: ['eth(']}}", "nodeAddress.ipv4: interface[0] is `eth(`"),
        (
            "nodeAddress: {ipv4: {interface: ['a)|(?:b']}}",
            "interface[0] is `a)|(?:b`: it takes a regular expression",
        ),
        ("nodeAddress: {ipv6: {method: guess}}", "guess"),
        (
            "nodeAddress: {ipv6: {can-reach: 192.0.2.1}}",
            "nodeAddress.ipv6: can-reach: `192.0.2.1` is not of IPv6",
        ),
    ] {
        let error = format!("{:#}", sources.settings(Some(&common(yaml))).unwrap_err());
        assert!(error.contains(words), "{yaml}: {error}");
    }
}

#[test]
fn what_needs_a_restart_is_named_and_the_rest_is_taken() {
    let sources = sources("nodeName: x", &[]).unwrap();
    let mut settings = sources.settings(None).unwrap();
    let other = common(
        "{mtu: 1400, dataplane: nftables, ipam: {mode: pool}, natOutgoing: true, logLevel: debug, \
         selfTest: {port: 9100}, nodeAddress: {ipv4: {method: first-found}}, ebpf: {flows: 4096}}",
    );
    assert_eq!(settings.follow(sources.settings(Some(&other)).unwrap()), ["dataplane", "ipam", "ebpf"]);
    assert_eq!(settings.self_test, Some(9100));
    assert!(!settings.node_address.is_kubernetes());
    assert_eq!(settings.map_sizes, sources.settings(None).unwrap().map_sizes);
    assert_eq!((settings.dataplane, settings.ipam.mode), (Dataplane::Auto, IpamMode::PodCidr));
    assert_eq!((settings.mtu.unwrap().octets(), settings.log_level.as_str()), (1400, "debug"));
    assert!(settings.traffic.nat.outgoing);
    assert!(settings.follow(sources.settings(None).unwrap()).is_empty());
    assert_eq!(settings.mtu, None);
}

#[test]
fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
    let yaml = "nodeName: file\nmtu: 1400\nbgp: {asn: 64500, mesh: false, peers: [{address: 192.0.2.1, asn: 64501}]}";
    let settings = settings(yaml, &["--node-name", "flag"]).unwrap();
    assert_eq!(settings.node_name, "flag");
    assert_eq!(settings.mtu.unwrap().octets(), 1400);
    assert_eq!(settings.run_dir.to_str(), Some("/run/margay"));
    assert_eq!((settings.bgp.asn.number(), settings.bgp.mesh), (64500, false));
}

#[test]
fn the_files_of_the_manifests_are_read() {
    let settings = settings(include_str!("../../../manifests/base/margay-node.yaml"), &[]).unwrap();
    assert_eq!((settings.bgp.enabled, settings.bgp.mesh, settings.bgp.hold_time), (true, true, 90));
    for overlay in [
        include_str!("../../../manifests/overlays/vxlan/margay-node.yaml"),
        include_str!("../../../manifests/overlays/route-reflectors/margay-node.yaml"),
    ] {
        self::settings(overlay, &[]).unwrap();
    }
}

#[test]
fn what_is_wrong_is_named() {
    for (yaml, word) in [
        ("nodeNam: x", "nodeNam"),
        ("nodeName: x\nmtu: 100", "mtu is 100"),
        ("nodeName: x\ndataplane: iptables", "iptables"),
        ("nodeName: x\nreconcileSeconds: 90", "reconcileSeconds is 90"),
        ("nodeName: x\nunreadySeconds: 0", "unreadySeconds is 0; it takes 1 to 86400"),
        ("nodeName: x\nchainedPlugins: [{snat: true}]", "chainedPlugins: {\"snat\":true} has no `type`"),
        ("nodeName: x\nbgp: {asn: 0}", "asn"),
        ("nodeName: x\nipam: {mode: pools}", "pool"),
        ("nodeName: x\noverlay: {vni: 0}", "overlay.vni is 0; it takes 1 to 16777215"),
        ("nodeName: x\noverlay: {port: 65536}", "overlay.port is 65536; it takes 1 to 65535"),
        ("nodeName: x\noverlay: {encapsulation: vxlan}", "VXLANCrossSubnet"),
        ("nodeName: x\nebpf: {flows: 10}", "ebpf.flows is 10; it takes 1024 to 16777216 entries"),
        ("nodeName: x\nebpf: {flow: 4096}", "ebpf.flow is the size of no map"),
        ("nodeName: x\nrouting: ospf", "direct"),
        ("nodeName: x\nselfTest: {port: 0}", "selfTest.port is 0; it takes 1 to 65535"),
        (
            "nodeName: x\nnodeAddress: {ipv4: {interface: ['eth(']}}",
            "nodeAddress.ipv4: interface[0] is `eth(`",
        ),
        ("nodeName: x\nnonMasqueradeCIDRs: [10.0.0.0/33]", "nonMasqueradeCIDRs: `10.0.0.0/33` is no CIDR"),
        ("nodeName: x\nnonMasqueradeCIDRs: [10.0.0.1/8]", "is 10.0.0.0/8 meant?"),
        ("nodeName: [", "margay.yaml"),
    ] {
        let error = format!("{:#}", settings(yaml, &[]).unwrap_err());
        assert!(error.contains(word), "{yaml}: {error}");
    }
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

/// A setting that flags and environment can give too, with a value from each place: flag, variable, file and, for those that all
/// nodes can have in common, `NetworkConfig`.
#[derive(Clone, Copy)]
struct Setting {
    id: &'static str,
    variable: &'static str,
    field: &'static str,
    values: [&'static str; 3],
    common: Option<&'static str>,
    default: &'static str,
}

const fn setting(
    id: &'static str,
    variable: &'static str,
    field: &'static str,
    values: [&'static str; 3],
    default: &'static str,
) -> Setting {
    Setting { id, variable, field, values, common: None, default }
}

const fn in_common(setting: Setting, value: &'static str) -> Setting {
    Setting { common: Some(value), ..setting }
}

const PATHS: [&str; 3] = ["/flag", "/variable", "/file"];
const SETTINGS: [Setting; 12] = [
    setting("node_name", "NODE_NAME", "nodeName", ["flag", "variable", "file"], ""),
    setting("kubeconfig", "KUBECONFIG", "kubeconfig", PATHS, ""),
    setting("run_dir", "MARGAY_RUN_DIR", "runDir", PATHS, "/run/margay"),
    setting("state_dir", "MARGAY_STATE_DIR", "stateDir", PATHS, "/var/lib/margay"),
    setting("cni_conf_dir", "MARGAY_CNI_CONF_DIR", "cniConfDir", PATHS, "/etc/cni/net.d"),
    setting("sysctl_dir", "MARGAY_SYSCTL_DIR", "sysctlDir", PATHS, "/proc/sys/net"),
    setting(
        "http_address",
        "MARGAY_HTTP_ADDRESS",
        "httpAddress",
        ["192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3"],
        "127.0.0.1:9099",
    ),
    in_common(setting("mtu", "MARGAY_MTU", "mtu", ["1401", "1402", "1403"], ""), "1404"),
    in_common(
        setting("dataplane", "MARGAY_DATAPLANE", "dataplane", ["nftables", "ebpf", "nftables"], "auto"),
        "ebpf",
    ),
    setting("bpf_dir", "MARGAY_BPF_DIR", "bpfDir", PATHS, "/sys/fs/bpf"),
    in_common(
        setting("log_level", "MARGAY_LOG_LEVEL", "logLevel", ["trace", "debug", "warn"], "info"),
        "error",
    ),
    setting("log_format", "MARGAY_LOG_FORMAT", "logFormat", ["json", "text", "json"], "text"),
];

/// The variable with which a test starts this program again, as variables are the whole process's.
const ASKED: &str = "MARGAY_TEST_OF_SETTINGS";

#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct Asked {
    flags: Vec<String>,
    common: String,
}

/// What the agent makes of flags, variables and `NetworkConfig`, in a process of its own: each setting, or what is wrong.
fn in_an_environment(asked: &Asked, variables: &[(&str, &str)]) -> Result<BTreeMap<String, String>, String> {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "config::tests::the_settings_in_the_environment_of_the_test_that_asks",
            "--nocapture",
        ])
        .env_clear()
        .envs(variables.iter().copied())
        .env(ASKED, serde_json::to_string(asked).unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let answer =
        said.lines().find_map(|line| line.split_once("settings: ")).unwrap_or_else(|| panic!("{said}")).1;
    serde_json::from_str(answer).unwrap()
}

#[test]
#[expect(clippy::print_stdout, reason = "it is what the other process reads")]
fn the_settings_in_the_environment_of_the_test_that_asks() {
    let Ok(asked) = std::env::var(ASKED) else { return };
    let asked: Asked = serde_json::from_str(&asked).unwrap();
    let arguments: Vec<OsString> = std::iter::once("margay-node")
        .chain(asked.flags.iter().map(String::as_str))
        .map(Into::into)
        .collect();
    let settings = Cli::read(&arguments).map_err(|error| error.to_string()).and_then(|cli| {
        let sources = Sources::read(cli).map_err(|error| format!("{error:#}"))?;
        sources.settings(Some(&common(&asked.common))).map_err(|error| format!("{error:#}"))
    });
    let settings = settings.map(|it| {
        let path = |path: &std::path::Path| path.display().to_string();
        BTreeMap::from([
            ("node_name", it.node_name),
            ("kubeconfig", it.kubeconfig.as_deref().map(path).unwrap_or_default()),
            ("run_dir", path(&it.run_dir)),
            ("state_dir", path(&it.state_dir)),
            ("cni_conf_dir", path(&it.cni_conf_dir)),
            ("sysctl_dir", path(&it.sysctl_dir)),
            ("http_address", it.http_address.to_string()),
            ("mtu", it.mtu.map(|mtu| mtu.octets().to_string()).unwrap_or_default()),
            ("dataplane", format!("{:?}", it.dataplane).to_lowercase()),
            ("bpf_dir", path(&it.bpf_dir)),
            ("log_level", it.log_level),
            ("log_format", format!("{:?}", it.log_format).to_lowercase()),
        ])
    });
    println!("settings: {}", serde_json::to_string(&settings).unwrap());
}

#[test]
fn a_flag_wins_over_its_variable_that_over_the_file_that_over_the_network_config_and_that_over_the_default() {
    let with_variable: BTreeSet<String> = Cli::command()
        .get_arguments()
        .filter(|argument| argument.get_env().is_some() && argument.get_id() != "config")
        .map(|argument| format!("{} {}", argument.get_id(), argument.get_env().unwrap().display()))
        .collect();
    let tested: BTreeSet<String> = SETTINGS.iter().map(|it| format!("{} {}", it.id, it.variable)).collect();
    assert_eq!(with_variable, tested, "a row for each setting, and for each row a setting");

    let file = tempfile::NamedTempFile::new().unwrap();
    let quoted = |text: &str| serde_json::to_string(text).unwrap();
    let bare = |it: &Setting, value: &str| if it.id == "mtu" { value.to_owned() } else { quoted(value) };
    let lines = |value: fn(&Setting) -> Option<&'static str>| {
        let lines =
            SETTINGS.iter().filter_map(|it| Some(format!("{}: {}\n", it.field, bare(it, value(it)?))));
        lines.collect::<String>()
    };
    std::fs::write(file.path(), lines(|it| Some(it.values[2]))).unwrap();
    let common = lines(|it| it.common);
    let from_file = format!("--config={}", file.path().display());
    let flags = SETTINGS.iter().map(|it| format!("--{}={}", it.id.replace('_', "-"), it.values[0]));
    let variables: Vec<(&str, &str)> = SETTINGS.iter().map(|it| (it.variable, it.values[1])).collect();
    let check = |flags: Vec<String>,
                 common: &str,
                 variables: &[(&str, &str)],
                 value: fn(&Setting) -> &'static str| {
        let asked = Asked { flags, common: common.to_owned() };
        let settings = in_an_environment(&asked, variables).unwrap();
        for setting in &SETTINGS {
            // Without any, it is what the host is called.
            if setting.id != "node_name" || !value(setting).is_empty() {
                assert_eq!(settings[setting.id], value(setting), "{} of {asked:?}", setting.id);
            }
        }
    };
    check(flags.chain([from_file.clone()]).collect(), &common, &variables, |it| it.values[0]);
    check(vec![from_file.clone()], &common, &variables, |it| it.values[1]);
    check(vec![from_file], &common, &[], |it| it.values[2]);
    check(vec![], &common, &[], |it| it.common.unwrap_or(it.default));
    check(vec![], "{}", &[], |it| it.default);
}

#[test]
fn the_file_is_the_flags_before_it_is_the_variables() {
    let named = |name: &str| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("nodeName: {name}")).unwrap();
        file
    };
    let (flag, variable) = (named("flag"), named("variable"));
    let variables = [("MARGAY_CONFIG", variable.path().to_str().unwrap())];
    let name = |flags: Vec<String>| {
        let asked = Asked { flags, common: "{}".to_owned() };
        in_an_environment(&asked, &variables).unwrap().remove("node_name").unwrap()
    };
    assert_eq!(name(vec![]), "variable");
    assert_eq!(name(vec![format!("--config={}", flag.path().display())]), "flag");
}

#[test]
fn a_bad_value_of_a_variable_is_refused_with_its_name_and_one_of_a_flag_with_the_flags() {
    for (variable, flag, value, words) in [
        ("MARGAY_MTU", "--mtu", "100", "it takes 1280 to 65535 octets"),
        ("MARGAY_MTU", "--mtu", "many", "it takes 1280 to 65535 octets"),
        ("MARGAY_MTU", "--mtu", "", "'--mtu <OCTETS>'"),
        ("MARGAY_DATAPLANE", "--dataplane", "iptables", "nftables"),
        ("MARGAY_HTTP_ADDRESS", "--http-address", "localhost", "invalid socket address"),
        ("MARGAY_LOG_LEVEL", "--log-level", "a=b=c", "a=b=c"),
        ("MARGAY_LOG_FORMAT", "--log-format", "xml", "json"),
        ("MARGAY_CONFIG", "--config", "/nowhere/margay.yaml", "read configuration /nowhere/margay.yaml"),
    ] {
        let common = "{}".to_owned();
        let asked = Asked { flags: vec![], common: common.clone() };
        let error = in_an_environment(&asked, &[(variable, value)]).unwrap_err();
        // A file that is not there is named by its path.
        let is_file = variable == "MARGAY_CONFIG";
        assert!(is_file || error.contains(&format!("{variable} of the environment ({flag} <")), "{error}");
        assert!(
            is_file || value.is_empty() || error.contains(&format!("invalid value '{value}'")),
            "{error}"
        );
        assert!(value.is_empty() || error.contains(words), "{error}");
        // The flag wins, and is what is wrong then.
        let asked = Asked { flags: vec![format!("{flag}={value}")], common };
        let error = in_an_environment(&asked, &[(variable, value)]).unwrap_err();
        assert!(!error.contains("of the environment") && error.contains(words), "{error}");
    }
}
