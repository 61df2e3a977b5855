//! What programs take of the stack.

use std::collections::{BTreeMap, BTreeSet};

use aya_obj::{Object, generated::BPF_PSEUDO_CALL};
use margay_tests::programs::object;

use crate::dataplane::{Dataplane, PROGRAMS};

/// Octets that functions which call each other may have on the stack together (`MAX_BPF_STACK`).
const LIMIT: usize = 512;
/// What a function takes is rounded up to that by old kernels, and by new ones that compile programs to less: what is loaded here may
/// not be there.
const UNIT: usize = 32;
/// Calls another function of the program (`BPF_JMP | BPF_CALL`).
const CALL: u8 = 0x85;

#[test]
#[expect(clippy::print_stdout, reason = "the numbers are what one wants to see")]
fn the_deepest_calls_of_all_programs_have_a_place_on_the_stack_of_old_kernels_too() {
    for (name, weakly_ordered) in PROGRAMS.into_iter().flat_map(|name| [(name, 0), (name, 1)]) {
        let log = Dataplane::verifier_log(name, weakly_ordered);
        let told = log.lines().find_map(|line| line.strip_prefix("stack depth "));
        let told =
            told.unwrap_or_else(|| panic!("{name}: the verifier does not say how deep the stack is: {log}"));
        let depths: Vec<usize> = told.split('+').map(|depth| depth.parse().unwrap()).collect();
        let calls = calls(name);
        assert_eq!(calls.len(), depths.len(), "{name}: functions");
        let deepest = deepest(0, &calls, &depths);
        println!(
            "{name}, weakly ordered {weakly_ordered}: {deepest} of {LIMIT} octets of stack; functions by themselves: {told}"
        );
        assert!(deepest <= LIMIT, "{name}: old kernels would refuse {deepest} octets of stack");
    }
}

/// What a function takes with all that it calls, rounded up as the kernel does.
fn deepest(function: usize, calls: &[BTreeSet<usize>], depths: &[usize]) -> usize {
    let called = calls[function].iter().map(|called| deepest(*called, calls, depths)).max();
    depths[function].max(1).next_multiple_of(UNIT) + called.unwrap_or_default()
}

/// The functions that each function of a program calls, by their numbers: in the order of their places, as the verifier numbers
/// them.
fn calls(name: &str) -> Vec<BTreeSet<usize>> {
    let mut object = Object::parse(&std::fs::read(object()).unwrap()).unwrap();
    let sections = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_calls(&sections).unwrap();
    let instructions = &object.functions[&object.programs[name].function_key()].instructions;
    let calls: Vec<(usize, usize)> = instructions
        .iter()
        .enumerate()
        .filter(|(_, it)| it.code == CALL && u32::from(it.src_reg()) == BPF_PSEUDO_CALL)
        .map(|(at, it)| (at, at.checked_add_signed(it.imm.try_into().unwrap()).unwrap() + 1))
        .collect();
    let starts: BTreeSet<usize> = calls.iter().map(|(_, to)| *to).chain([0]).collect();
    let numbers: BTreeMap<usize, usize> = starts.into_iter().zip(0..).collect();
    let mut called = vec![BTreeSet::new(); numbers.len()];
    for (at, to) in calls {
        let (_, from) = numbers.range(..=at).next_back().unwrap();
        called[*from].insert(numbers[&to]);
    }
    called
}
