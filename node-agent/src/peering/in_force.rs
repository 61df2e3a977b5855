//! Which form of each `BGPPeer` counts. Pure.

use std::collections::BTreeMap;

use crate::watch::PeerFacts;

/// The objects as they count now: as they are, and one of which not all can be read as it was when all of it could. A slip of the pen
/// costs no session, and no route.
pub(super) fn in_force(
    before: &BTreeMap<String, PeerFacts>,
    now: &BTreeMap<String, PeerFacts>,
) -> BTreeMap<String, PeerFacts> {
    let counts = |(name, facts): (&String, &PeerFacts)| {
        let good = before.get(name).filter(|before| before.is_whole() && !facts.is_whole());
        let counting = good.map_or_else(
            || facts.clone(),
            |good| PeerFacts {
                problems: facts
                    .problems
                    .iter()
                    .map(|it| format!("{it} (until then it is as before)"))
                    .collect(),
                told: facts.told.clone(),
                ..good.clone()
            },
        );
        (name.clone(), counting)
    };
    now.iter().map(counts).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::in_force;
    use crate::watch::{PeerFacts, reading};

    fn peers(spec: &str) -> BTreeMap<String, PeerFacts> {
        let text = format!("{{metadata: {{name: tor}}, spec: {{address: 192.0.2.1, {spec}}}}}");
        let facts = reading::peer(&serde_saphyr::from_str(&text).unwrap()).unwrap();
        [("tor".to_owned(), facts)].into()
    }

    fn regex(written: &str) -> BTreeMap<String, PeerFacts> {
        peers(&format!(
            "asn: 1, import: {{rules: [{{action: Accept, match: {{asPathRegex: ['{written}']}}}}]}}"
        ))
    }

    #[test]
    fn the_last_form_that_could_be_read_stays_until_there_is_another() {
        let (good, other) = (regex("^1_"), regex("^2_"));
        for wrong in [regex("^(1"), peers("asn: 0"), peers("asn: 1, holdTimeSeconds: 1")] {
            let counts = in_force(&good, &wrong);
            assert_eq!(counts["tor"].session, good["tor"].session);
            assert_eq!(counts["tor"].problems.len(), 1);
            assert!(counts["tor"].problems[0].ends_with("as before)"), "{:?}", counts["tor"].problems);
            // Nor does a second look at it change that.
            assert_eq!(in_force(&counts, &wrong), counts);
            assert_eq!(in_force(&counts, &other), other);
        }
    }

    #[test]
    fn one_that_was_never_right_or_is_gone_has_no_form_before() {
        let wrong = regex("^(1");
        assert_eq!(in_force(&BTreeMap::new(), &wrong), wrong);
        assert_eq!(in_force(&wrong, &regex("^[1")), regex("^[1"));
        assert!(in_force(&regex("^1_"), &BTreeMap::new()).is_empty());
    }
}
