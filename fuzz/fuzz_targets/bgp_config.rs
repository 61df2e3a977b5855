//! The speaker's configuration, as a file or from its control socket, with policies and their regular expressions.
#![no_main]

use libfuzzer_sys::fuzz_target;
use margay_bgp::{
    Asn,
    config::Config,
    policy::PathRegex,
    wire::attr::{AsPath, Segment, SegmentKind},
};

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if text.len() <= 256 {
        regex(text);
    }
    let Ok(config) = Config::from_yaml(text) else { return };
    // As the agent says it to the speaker.
    let said = serde_json::to_string(&config).expect("JSON");
    assert_eq!(serde_json::from_str::<Config>(&said).expect("what was said"), config);
    match config.check() {
        Ok(checked) => assert!(checked == config.check().expect("as before")),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});

/// Any expression is refused with its place, or looks at a path in time that grows with the path alone.
fn regex(written: &str) {
    match PathRegex::new(written) {
        Ok(regex) => {
            let asns = (0..512).map(|number| Asn::new(64_512 + number % 7).expect("not 0"));
            let path = AsPath::new([Segment { kind: SegmentKind::Sequence, asns: asns.collect() }]);
            let _fits = regex.is_match(&path);
        }
        Err(error) => assert!(error.to_string().contains(written), "{error}"),
    }
}
