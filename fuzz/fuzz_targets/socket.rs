//! The agent's socket: any line, as the plugin or `margayctl` may send it, and as the agent may answer it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use margay_api::agent::{MAX_LINE, Request, Response};
use serde::{Serialize, de::DeserializeOwned};

fuzz_target!(|line: &[u8]| {
    let line = &line[..line.len().min(MAX_LINE)];
    if let Some(request) = again::<Request>(line) {
        match request {
            Request::EndpointAdded { endpoint } | Request::EndpointCheck { endpoint } => {
                let name = endpoint.host_ifname();
                assert!(
                    name.len() == 15 && !name.contains(['/', '.']),
                    "the name of a file and a link: {name}"
                );
            }
            Request::Monitor { .. } | Request::Flows { .. } | Request::Addressing { .. } => {}
            Request::TakeDown { .. } | Request::Status => {}
        }
    }
    match again::<Response>(line) {
        Some(Response::Dropped(dropped)) => assert!(!dropped.to_string().is_empty()),
        Some(Response::Begun(begun)) => assert!(!begun.to_string().is_empty()),
        _ => {}
    }
});

/// What is understood is said again in one line that means the same.
fn again<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(line: &[u8]) -> Option<T> {
    let read: T = serde_json::from_slice(line).ok()?;
    let said = serde_json::to_string(&read).expect("JSON");
    assert!(!said.contains('\n'), "two lines: {said}");
    assert!(said.len() <= 8 * line.len() + 256, "{} octets out of {}", said.len(), line.len());
    assert_eq!(serde_json::from_str::<T>(&said).expect("what was said"), read);
    Some(read)
}
