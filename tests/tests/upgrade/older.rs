//! Which programs nodes go between.

use std::path::{Path, PathBuf};

use margay_tests::guide;

/// Names the folder of the older programs; `tests/upgrade/run` sets it.
const FROM: &str = "MARGAY_UPGRADE_FROM";

/// The older `margay`, `margay-node` and `margay-bgp`, which are not those of now.
pub(crate) fn older() -> PathBuf {
    let Some(folder) = std::env::var_os(FROM) else {
        panic!("{FROM} names no folder of older programs: run this with `make test-upgrade`");
    };
    let folder = PathBuf::from(folder);
    for program in ["margay", "margay-node", "margay-bgp"] {
        let [before, now] = [&folder, &guide::programs()].map(|folder| folder.join(program));
        assert!(before.is_file(), "no program {}: run this with `make test-upgrade`", before.display());
        assert!(!is_same(&before, &now), "{} is the program of now", before.display());
    }
    folder
}

fn is_same(one: &Path, other: &Path) -> bool {
    std::fs::read(one).unwrap() == std::fs::read(other).unwrap()
}
