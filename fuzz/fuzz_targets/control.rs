//! The speaker's control socket: any line, as the agent or `margayctl` may send it, and as the speaker may answer it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use margay_bgp::control::{Request, Response};
use serde::{Serialize, de::DeserializeOwned};

fuzz_target!(|line: &[u8]| {
    if let Some(Request::Configure(config)) = again::<Request>(line) {
        // What is wrong with it is told in words.
        match config.check() {
            Ok(checked) => assert!(checked == config.check().expect("as before")),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    let _answer = again::<Response>(line);
});

/// What is understood is said again in one line that means the same.
fn again<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(line: &[u8]) -> Option<T> {
    let read: T = serde_json::from_slice(line).ok()?;
    let said = serde_json::to_string(&read).expect("JSON");
    assert!(!said.contains('\n'), "two lines: {said}");
    assert_eq!(serde_json::from_str::<T>(&said).expect("what was said"), read);
    Some(read)
}
