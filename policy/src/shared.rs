//! Values that many have, each in memory once.

use std::{collections::BTreeSet, sync::Arc};

/// As few values are looked through for those that nobody has any more only when as many have come again.
const FEW: usize = 64;

/// Values that are held somewhere, for those who come to hold the same: the labels that all pods of a workload have.
#[derive(Debug)]
pub struct Shared<T> {
    all: BTreeSet<Arc<T>>,
    /// With so many, those that nobody has any more are forgotten.
    enough: usize,
}

impl<T: Ord> Default for Shared<T> {
    fn default() -> Self {
        Self { all: BTreeSet::new(), enough: FEW }
    }
}

impl<T: Ord> Shared<T> {
    /// The value, as those have it who have it already.
    pub fn share(&mut self, value: T) -> Arc<T> {
        if let Some(known) = self.all.get(&value) {
            return Arc::clone(known);
        }
        if self.all.len() >= self.enough {
            self.all.retain(|value| Arc::strong_count(value) > 1);
            self.enough = FEW.max(2 * self.all.len());
        }
        let value = Arc::new(value);
        self.all.insert(Arc::clone(&value));
        value
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{FEW, Shared};

    #[test]
    fn who_has_the_same_value_has_it_together() {
        let mut shared = Shared::default();
        let [one, same, other] = ["a", "a", "b"].map(|value| shared.share(value.to_owned()));
        assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &other));
    }

    #[test]
    fn values_that_nobody_has_any_more_are_forgotten_and_others_are_not() {
        let mut shared = Shared::default();
        let kept = shared.share(0);
        for value in 1..10 * FEW {
            shared.share(value);
        }
        assert!(shared.all.len() <= FEW, "{}", shared.all.len());
        assert!(Arc::ptr_eq(&kept, &shared.share(0)));
    }
}
