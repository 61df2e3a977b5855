//! The configurations of the documentation work, and their policies pass their tests.

use std::path::Path;

#[test]
fn every_example_is_valid_and_passes_its_tests() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let report = margay_bgp::check::run(&entry.unwrap().path(), None);
        assert!(report.is_good() && report.tests > 0, "{report}");
        seen += 1;
    }
    assert_eq!(seen, 2);
}
