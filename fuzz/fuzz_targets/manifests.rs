//! What `margayctl policy` reads: manifests, files with expectations, and names of parties and ports.
#![no_main]
#![allow(dead_code)]

#[path = "."]
mod policy {
    #[path = "../../ctl/src/policy/expectation.rs"]
    mod expectation;
    #[path = "../../ctl/src/policy/manifests.rs"]
    mod manifests;
    #[path = "../../ctl/src/policy/party.rs"]
    mod party;
    #[path = "../../ctl/src/policy/source.rs"]
    mod source;

    use std::path::Path;

    use self::{
        expectation::File,
        party::{Party, PortChoice},
        source::Source,
    };

    pub(super) fn read(text: &str) {
        let file = Path::new("f.yaml");
        let mut source = Source::default();
        if let Err(error) = manifests::read(&mut source, file, text) {
            assert!(format!("{error:#}").starts_with("f.yaml"), "{error:#}");
        }
        let source = source.complete();
        match File::read(file, text) {
            Ok(read) => {
                for case in &read.cases {
                    for end in [&case.from, &case.to] {
                        let found = Party::find(&source, end).map(|_| ());
                        assert!(found.as_ref().err().is_none_or(|error| !error.to_string().is_empty()));
                    }
                    let _port = case.port.to_string().parse::<PortChoice>();
                }
            }
            Err(error) => assert!(error.to_string().starts_with("f.yaml"), "{error:#}"),
        }
    }
}

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(text) = std::str::from_utf8(input) {
        policy::read(text);
    }
});
