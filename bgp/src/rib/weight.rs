//! The shares of the routers that packets for one prefix are spread over (draft-ietf-idr-link-bandwidth).

use std::collections::BTreeMap;

use super::fib::FibNextHop;
use crate::wire::NextHop;

/// The routers on the way to one next hop.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Way {
    /// Octets a second, if the path says.
    pub(super) bandwidth: Option<f32>,
    pub(super) gateways: Vec<FibNextHop>,
}

/// The largest share that the kernel takes.
const LARGEST: u16 = 256;

/// Ways by next hop and, for a link-local one, link: who hears of one from two reflectors has one way.
pub(super) type Ways = BTreeMap<(NextHop, Option<u32>), Way>;

/// All routers with their shares, in ascending order. Next hops are equal unless each has a bandwidth; the routers on
/// the way to one have shares of its share.
pub(super) fn spread(ways: &Ways) -> Vec<FibNextHop> {
    let weighted = ways.values().all(|way| way.bandwidth.is_some());
    let mut shares: BTreeMap<FibNextHop, f64> = BTreeMap::new();
    for way in ways.values() {
        let whole = if weighted { way.bandwidth.map_or(1.0, f64::from) } else { 1.0 };
        let parts: f64 = way.gateways.iter().map(|gateway| f64::from(gateway.weight)).sum();
        for gateway in &way.gateways {
            let router = FibNextHop { weight: 1, ..*gateway };
            *shares.entry(router).or_default() += whole * f64::from(gateway.weight) / parts;
        }
    }
    let most = shares.values().copied().fold(0.0, f64::max);
    let weights: Vec<u16> = shares.values().map(|share| weight(share / most)).collect();
    let divisor = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
    let routers = shares.into_keys().zip(weights);
    routers.map(|(router, weight)| FibNextHop { weight: weight / divisor, ..router }).collect()
}

/// The share of one that has this part of the largest one's.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::as_conversions,
    reason = "what is no number or out of range becomes the nearest one, and is put in range then"
)]
fn weight(part: f64) -> u16 {
    ((part * f64::from(LARGEST)).round() as u16).clamp(1, LARGEST)
}

fn greatest_common_divisor(mut one: u16, mut other: u16) -> u16 {
    while other != 0 {
        (one, other) = (other, one % other);
    }
    one
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rib::tests::{address, via};

    fn weighted(last: u8, weight: u16) -> FibNextHop {
        FibNextHop { weight, ..via(last) }
    }

    fn way(last: u8, bandwidth: Option<f32>, gateways: &[FibNextHop]) -> ((NextHop, Option<u32>), Way) {
        ((NextHop::V4(address(last)), None), Way { bandwidth, gateways: gateways.to_vec() })
    }

    #[test]
    fn shares_follow_the_bandwidths_if_all_have_one() {
        let of = |bandwidths: &[Option<f32>]| -> Vec<u16> {
            let ways = (1..).zip(bandwidths).map(|(last, bandwidth)| way(last, *bandwidth, &[via(last)]));
            spread(&ways.collect()).iter().map(|gateway| gateway.weight).collect()
        };
        let cases: [(&[Option<f32>], &[u16]); 7] = [
            (&[None, None], &[1, 1]),
            (&[Some(1e9), Some(1e9)], &[1, 1]),
            (&[Some(1e9), Some(5e8)], &[2, 1]),
            (&[Some(1e9), None], &[1, 1]),
            (&[Some(3e8), Some(1e8), Some(2e8)], &[256, 85, 171]),
            (&[Some(1e10), Some(1.0)], &[256, 1]),
            (&[Some(f32::MAX), Some(f32::MIN_POSITIVE), Some(f32::MAX)], &[256, 1, 256]),
        ];
        for (bandwidths, expected) in cases {
            assert_eq!(of(bandwidths), expected, "{bandwidths:?}");
        }
    }

    #[test]
    fn a_router_on_the_way_to_two_next_hops_has_the_share_of_both() {
        let ways = Ways::from([way(1, Some(4e6), &[via(7), weighted(8, 3)]), way(2, Some(1e6), &[via(7)])]);
        assert_eq!(spread(&ways), [weighted(7, 171), weighted(8, 256)]);
        let equal = Ways::from([way(1, None, &[via(7)]), way(2, None, &[via(7)])]);
        assert_eq!(spread(&equal), [via(7)]);
    }
}
