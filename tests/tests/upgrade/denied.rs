//! Traffic that policy denies, while something happens.

use std::time::Duration;

use margay_lab::{Lab, Stream};

use crate::cluster::{is_open, party, until_open};

/// Between two datagrams of a stream.
const EVERY: Duration = Duration::from_millis(5);

/// A stream of datagrams for each of some ways, none of which may arrive.
pub(crate) struct Denied {
    ways: Vec<(String, Stream)>,
}

impl Denied {
    /// From the first to the second of each, at each address of the second.
    pub(crate) async fn start(lab: &Lab, ways: &[(&str, &str)]) -> Self {
        let mut started = Vec::new();
        for (from, to) in ways {
            until_open(lab, from, to, false).await;
            for address in lab.pod_addresses(&crate::cluster::key(to)) {
                let stream = lab.stream_to(&party(from), &party(to), address, EVERY).unwrap();
                started.push((format!("{from} -> {to} ({address})"), stream));
            }
        }
        Self { ways: started }
    }

    /// Ends it: nothing may have come through. How many were sent.
    pub(crate) async fn let_nothing_through(self) -> u64 {
        let mut all = 0;
        for (way, stream) in self.ways {
            let counted = stream.finish().await.unwrap();
            let came = counted.sent - counted.lost.len() as u64;
            assert_eq!(came, 0, "{way}: {came} of {} datagrams came through", counted.sent);
            all += counted.sent;
        }
        all
    }
}

/// Asks again and again, and never ends: what policy denies may not open, what it allows may not be refused.
pub(crate) async fn watch(lab: &Lab, open: &[(&str, &str)], closed: &[(&str, &str)]) {
    loop {
        for (from, to) in open {
            assert!(is_open(lab, from, to).await, "{from} -> {to} was refused{}", lab.log_tail(30));
        }
        for (from, to) in closed {
            assert!(!is_open(lab, from, to).await, "{from} -> {to} was open{}", lab.log_tail(30));
        }
    }
}
