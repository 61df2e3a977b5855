//! The verifier accepts the programs with room to spare.

use crate::dataplane::{Dataplane, PROGRAMS};

#[test]
fn all_programs_load_with_a_tenth_of_what_the_verifier_would_look_at() {
    for weakly_ordered in [0, 1] {
        check(&mut Dataplane::load_for(weakly_ordered), weakly_ordered);
    }
}

#[expect(clippy::print_stdout, reason = "the numbers are what one wants to see")]
fn check(dataplane: &mut Dataplane, weakly_ordered: u32) {
    for name in PROGRAMS {
        let info = dataplane.program(name).info().unwrap();
        let verified = info.verified_instruction_count().unwrap();
        println!(
            "{name}, weakly ordered {weakly_ordered}: {} octets of instructions, {verified} instructions verified, {} octets of machine code",
            info.size_translated().unwrap_or_default(),
            info.size_jitted()
        );
        assert!(verified < 100_000, "{name}: {verified} instructions verified");
    }
}
