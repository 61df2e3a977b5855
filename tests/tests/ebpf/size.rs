//! The verifier accepts the programs with room to spare.

use crate::dataplane::{Dataplane, PROGRAMS};

#[test]
#[expect(clippy::print_stdout, reason = "the numbers are what one wants to see")]
fn all_programs_load_with_a_tenth_of_what_the_verifier_would_look_at() {
    let mut dataplane = Dataplane::load();
    for name in PROGRAMS {
        let info = dataplane.program(name).info().unwrap();
        let verified = info.verified_instruction_count().unwrap();
        println!(
            "{name}: {} octets of instructions, {verified} instructions verified, {} octets of machine code",
            info.size_translated().unwrap_or_default(),
            info.size_jitted()
        );
        assert!(verified < 100_000, "{name}: {verified} instructions verified");
    }
}
