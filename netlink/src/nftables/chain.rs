//! Chains.

use super::Expr;

/// A rule: expressions in order, the first that does not match ends it.
pub type Rule = Vec<Expr>;

/// A chain with its rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where packets come from; `None` for a chain that others jump to.
    pub base: Option<Base>,
    /// Its rules in order.
    pub rules: Vec<Rule>,
}

impl Chain {
    /// A chain that others jump to.
    pub fn regular(rules: Vec<Rule>) -> Self {
        Self { base: None, rules }
    }
}

/// What a base chain sees, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// What its rules may do.
    pub kind: ChainKind,
    /// The hook that it is called from.
    pub hook: Hook,
    /// Chains of one hook are called from the lowest to the highest.
    pub priority: i32,
    /// What becomes of packets at its end.
    pub policy: Policy,
}

/// What the rules of a base chain may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    /// Look at packets, and drop them.
    Filter,
    /// Translate addresses; only the first packet of a connection comes by.
    Nat,
}

impl ChainKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }

    pub(super) fn of_name(name: &str) -> Option<Self> {
        [Self::Filter, Self::Nat].into_iter().find(|kind| kind.name() == name)
    }
}

/// A place in the kernel's path of packets (`NF_INET_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// All that comes in, before it is routed.
    Prerouting,
    /// What is for this host.
    Input,
    /// What is for others.
    Forward,
    /// What this host sends.
    Output,
    /// All that goes out.
    Postrouting,
}

impl Hook {
    /// All of them, in the order of their numbers.
    const ALL: [Self; 5] = [Self::Prerouting, Self::Input, Self::Forward, Self::Output, Self::Postrouting];

    pub(super) fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }

    pub(super) fn of_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| hook.number() == number)
    }
}

/// What becomes of packets at the end of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// They go on.
    Accept,
    /// They are dropped.
    Drop,
}
