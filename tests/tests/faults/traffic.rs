//! Traffic that goes on while something happens.

use std::time::Duration;

use margay_lab::{Kept, Lab, Stream};

use crate::cluster::{PATIENCE, PORT, party, until_open};

/// Between two datagrams of a stream.
const EVERY: Duration = Duration::from_millis(5);

/// A stream of datagrams and an open connection for each of some ways.
pub(crate) struct Traffic {
    ways: Vec<(String, Stream, Kept)>,
}

impl Traffic {
    /// From the first to the second of each.
    pub(crate) async fn start(lab: &Lab, ways: &[(&str, &str)]) -> Self {
        let mut started = Vec::new();
        for (from, to) in ways {
            let (sender, receiver) = (party(from), party(to));
            until_open(lab, from, to, true).await;
            let kept = lab.keep(&sender, &receiver, PORT).await.unwrap();
            let mut stream = lab.stream(&sender, &receiver, EVERY).unwrap();
            stream.sends(20).await.unwrap();
            started.push((format!("{from} -> {to}"), stream, kept.unwrap()));
        }
        Self { ways: started }
    }

    /// Whether all open connections still pass data both ways.
    pub(crate) async fn goes_on(&mut self, lab: &Lab, when: &str) {
        for (way, stream, kept) in &mut self.ways {
            assert!(kept.is_alive(PATIENCE).await, "{way}: the connection ended: {when}{}", lab.log_tail(30));
            stream.sends(10).await.unwrap();
        }
    }

    /// Ends it, and says how many datagrams each way has lost, of how many.
    pub(crate) async fn lost(mut self, lab: &Lab, when: &str) -> Vec<(String, usize, u64)> {
        self.goes_on(lab, when).await;
        let mut lost = Vec::new();
        for (way, stream, _) in self.ways {
            let counted = stream.finish().await.unwrap();
            lost.push((way, counted.lost.len(), counted.sent));
        }
        lost
    }

    /// Ends it, and none of it may have been lost.
    pub(crate) async fn lost_nothing(self, lab: &Lab, when: &str) {
        let lost = self.lost(lab, when).await;
        assert!(
            lost.iter().all(|(_, lost, _)| *lost == 0),
            "{when}: lost of sent: {lost:?}{}",
            lab.log_tail(40)
        );
    }
}
