//! The verifier accepts the programs with room to spare.

use crate::dataplane::{Dataplane, Object, PROGRAMS};

#[test]
#[expect(clippy::print_stdout, reason = "the numbers are what one wants to see")]
fn all_programs_load_with_a_quarter_of_what_the_verifier_would_look_at() {
    for (object, name) in
        [Object::Node, Object::Nodes].into_iter().flat_map(|o| PROGRAMS.map(|name| (o, name)))
    {
        let mut dataplane = Dataplane::load(object);
        let info = dataplane.program(name).info().unwrap();
        let verified = info.verified_instruction_count().unwrap();
        println!(
            "{object:?} {name}: {} octets of instructions, {verified} instructions verified, {} octets of machine code",
            info.size_translated().unwrap_or_default(),
            info.size_jitted()
        );
        assert!(verified < 250_000, "{name}: {verified} instructions verified");
    }
}
