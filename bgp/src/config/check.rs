//! What the form of a configuration alone cannot say.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU8;
use std::sync::Arc;
use std::time::Duration;

use super::checked::{Checked, CheckedBfd, CheckedDynamic, CheckedNeighbor, Hops};
use super::{BfdOptions, Config, ConfigError, LONGEST_PASSWORD, MaxPrefixes, Neighbor, Password, policy};
use crate::bfd::Timers;
use crate::fsm::Penalty;
use crate::policy::{Policy, TermNextHop};
use crate::rib::{self, DecisionOptions, Policies};
use crate::wire::LongLived;
use crate::wire::notification::LONGEST_COMMUNICATION;

impl Config {
    /// Checks what the form alone cannot say.
    ///
    /// # Errors
    /// The first thing that is wrong, with its path.
    pub fn check(&self) -> Result<Checked, ConfigError> {
        let wrong = |path: &str, reason: String| ConfigError::Value { path: path.to_owned(), reason };
        if !(1..=3600).contains(&self.connect_retry) {
            return Err(wrong("connect_retry", format!("{} s: expected 1 to 3600", self.connect_retry)));
        }
        for (path, paths) in [
            ("decision.external_paths", self.decision.external_paths),
            ("decision.internal_paths", self.decision.internal_paths),
        ] {
            if paths == 0 {
                return Err(wrong(path, "0: expected 1 to 255".to_owned()));
            }
        }
        if self.kernel.metric == 0 {
            return Err(wrong("kernel.metric", "0: expected at least 1".to_owned()));
        }
        if self.kernel.table == 0 {
            return Err(wrong("kernel.table", "0: expected the number of a table, 254 is main".to_owned()));
        }
        // Up to 4 (static) the numbers are the kernel's and the administrator's.
        if self.kernel.protocol <= 4 {
            let reason =
                format!("{}: routes of this protocol are not ours, use 186 (bgp)", self.kernel.protocol);
            return Err(wrong("kernel.protocol", reason));
        }
        if self.deferral_time > 3600 {
            return Err(wrong("deferral_time", format!("{} s: expected 0 to 3600", self.deferral_time)));
        }
        if let Some(text) = &self.shutdown_message
            && text.len() > LONGEST_COMMUNICATION
        {
            let reason = format!("{} octets: expected up to {LONGEST_COMMUNICATION}", text.len());
            return Err(wrong("shutdown_message", reason));
        }
        let mut networks = BTreeMap::new();
        for (index, network) in self.networks.iter().enumerate() {
            if networks.insert(network.prefix, network.blackhole).is_some() {
                return Err(wrong(
                    &format!("networks[{index}]"),
                    format!("{} is there twice", network.prefix),
                ));
            }
        }
        let collectors = self
            .bmp
            .check((self.asn, self.router_id))
            .map_err(|(field, reason)| wrong(&format!("bmp.{field}"), reason))?;
        let policies = policy::compile(&self.prefix_lists, &self.policies)?;
        for (field, name) in [("import", &self.import), ("export", &self.export)] {
            choose_policy(&policies, field, name.as_deref()).map_err(|reason| wrong(field, reason))?;
        }
        let mut neighbors = BTreeMap::new();
        for (index, neighbor) in self.neighbors.iter().enumerate() {
            let checked = self.check_neighbor(neighbor, &policies).map_err(|(field, reason)| {
                ConfigError::Value { path: format!("neighbors[{index}].{field}"), reason }
            })?;
            if neighbors.insert(neighbor.address, checked).is_some() {
                let reason = format!("{} is there twice", neighbor.address);
                return Err(wrong(&format!("neighbors[{index}].address"), reason));
            }
        }
        let mut dynamic_neighbors: Vec<CheckedDynamic> = Vec::new();
        for (index, dynamic) in self.dynamic_neighbors.iter().enumerate() {
            let path = |field: &str| format!("dynamic_neighbors[{index}].{field}");
            if dynamic.limit == 0 {
                return Err(wrong(&path("limit"), "0: expected at least 1".to_owned()));
            }
            if dynamic_neighbors.iter().any(|other| other.prefix == dynamic.prefix) {
                return Err(wrong(&path("prefix"), format!("{} is there twice", dynamic.prefix)));
            }
            // Any address of the prefix does for the check; the first may be no address of a router.
            let template = match dynamic.prefix.address() {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
            };
            let template = self
                .check_neighbor(&dynamic.neighbor(template), &policies)
                .map_err(|(field, reason)| ConfigError::Value { path: path(field), reason })?;
            dynamic_neighbors.push(CheckedDynamic { prefix: dynamic.prefix, limit: dynamic.limit, template });
        }
        // The longest prefix decides whose neighbour somebody is.
        dynamic_neighbors.sort_by_key(|dynamic| std::cmp::Reverse(dynamic.prefix.length()));
        Ok(Checked {
            asn: self.asn,
            router_id: self.router_id,
            cluster_id: self.cluster_id(),
            options: DecisionOptions {
                always_compare_med: self.decision.always_compare_med,
                external_paths: self.decision.external_paths,
                internal_paths: self.decision.internal_paths,
            },
            listen: self.listen.clone(),
            networks,
            neighbors,
            dynamic_neighbors,
            shutdown_message: self.shutdown_message.clone(),
            deferral_time: Duration::from_secs(self.deferral_time.into()),
            kernel: self.kernel,
            metrics: self.metrics,
            collectors,
            policies,
        })
    }

    fn neighbor_policies(
        &self,
        neighbor: &Neighbor,
        policies: &BTreeMap<String, Arc<Policy>>,
    ) -> Result<Policies, (&'static str, String)> {
        let internal = neighbor.remote_as == self.asn;
        let missing = if self.ebgp_requires_policy && !internal {
            rib::Policy::Nothing
        } else {
            rib::Policy::Everything
        };
        let policy = |field, own: &Option<String>, other: &Option<String>| {
            let name = own.as_deref().or(other.as_deref());
            let chosen = choose_policy(policies, field, name).map_err(|reason| (field, reason))?;
            Ok(chosen.map_or(missing.clone(), rib::Policy::Terms))
        };
        Ok(Policies {
            import: policy("import", &neighbor.import, &self.import)?,
            export: policy("export", &neighbor.export, &self.export)?,
        })
    }

    fn cluster_id(&self) -> Ipv4Addr {
        self.cluster_id.unwrap_or(self.router_id.octets().into())
    }

    fn check_neighbor(
        &self,
        neighbor: &Neighbor,
        policies: &BTreeMap<String, Arc<Policy>>,
    ) -> Result<CheckedNeighbor, (&'static str, String)> {
        let address = neighbor.address;
        if address.is_unspecified() || address.is_multicast() {
            return Err(("address", format!("{address} is no address of a router")));
        }
        let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        match &neighbor.interface {
            None if link_local => {
                return Err(("interface", format!("is missing: {address} is link-local")));
            }
            Some(_) if !link_local => {
                return Err(("interface", format!("{address} is not link-local: leave it out")));
            }
            Some(name) if name.is_empty() || name.len() > 15 => {
                return Err(("interface", format!("`{name}`: expected 1 to 15 octets")));
            }
            _ => {}
        }
        if let Some(local) = neighbor.local_address
            && local.is_ipv4() != address.is_ipv4()
        {
            return Err(("local_address", format!("{local} is of another family than {address}")));
        }
        if neighbor.port == 0 {
            return Err(("port", "0: expected 1 to 65535".to_owned()));
        }
        if neighbor.ttl == Some(0) {
            return Err(("ttl", "0: expected 1 to 255".to_owned()));
        }
        if let Some(hops) = neighbor.ttl_security {
            if !(1..=254).contains(&hops) {
                return Err(("ttl_security", format!("{hops}: expected 1 to 254")));
            }
            if neighbor.ttl.is_some() {
                return Err(("ttl", "is 255 with ttl_security: leave it out".to_owned()));
            }
        }
        if let Some(Password(password)) = &neighbor.password
            && !(1..=LONGEST_PASSWORD).contains(&password.len())
        {
            let reason = format!("{} octets: expected 1 to {LONGEST_PASSWORD}", password.len());
            return Err(("password", reason));
        }
        let restart = &neighbor.graceful_restart;
        if !(1..=4095).contains(&restart.restart_time) {
            let reason = format!("{} s: expected 1 to 4095", restart.restart_time);
            return Err(("graceful_restart.restart_time", reason));
        }
        if restart.long_lived_time > LongLived::LONGEST {
            let reason = format!("{} s: expected up to {}", restart.long_lived_time, LongLived::LONGEST);
            return Err(("graceful_restart.long_lived_time", reason));
        }
        if neighbor.families.is_empty() {
            return Err(("families", "is empty: expected ipv4-unicast, ipv6-unicast or both".to_owned()));
        }
        if let Some(max) = neighbor.max_prefixes {
            max.check()?;
        }
        let internal = neighbor.remote_as == self.asn;
        if neighbor.route_reflector_client && !internal {
            let reason = format!("{address} is not in AS {}, and only internal peers are clients", self.asn);
            return Err(("route_reflector_client", reason));
        }
        let policy = self.neighbor_policies(neighbor, policies)?;
        let ttl = match neighbor.ttl_security {
            Some(_) => u8::MAX,
            None => neighbor.ttl.unwrap_or(if internal { 64 } else { 1 }),
        };
        let next_door = ttl == 1 || neighbor.ttl_security == Some(1) || link_local;
        let bfd = neighbor.bfd.map(|options| check_bfd(options, next_door)).transpose()?;
        Ok(CheckedNeighbor {
            // What was reflected carries it, and what was received was looked through for it.
            cluster_id: internal.then(|| self.cluster_id()),
            local_as: self.asn,
            router_id: self.router_id,
            address,
            remote_as: neighbor.remote_as,
            local_address: neighbor.local_address,
            port: neighbor.port,
            passive: neighbor.passive,
            ttl,
            // A packet of a neighbour one hop away arrives with 255.
            least_ttl: neighbor.ttl_security.map(|hops| u8::MAX - (hops - 1)),
            password: neighbor.password.clone(),
            interface: neighbor.interface.clone(),
            extended_messages: neighbor.extended_messages,
            extended_next_hop: neighbor.extended_next_hop || link_local,
            add_path: neighbor.add_path,
            add_path_limit: neighbor.add_path_limit,
            graceful_restart: neighbor.graceful_restart,
            families: neighbor.families.iter().copied().collect(),
            hold_time: neighbor.hold_time.unwrap_or(self.hold_time),
            connect_retry: Duration::from_secs(self.connect_retry.into()),
            next_hop_ipv4: neighbor.next_hop_ipv4,
            next_hop_ipv6: neighbor.next_hop_ipv6,
            route_reflector_client: neighbor.route_reflector_client,
            bfd,
            policy,
            prefix_limit: neighbor.max_prefixes.map(MaxPrefixes::limit),
            penalty: neighbor.max_prefixes.map_or(Penalty::BackOff, MaxPrefixes::penalty),
        })
    }
}

fn check_bfd(options: BfdOptions, next_door: bool) -> Result<CheckedBfd, (&'static str, String)> {
    for (field, interval) in [("bfd.min_tx", options.min_tx), ("bfd.min_rx", options.min_rx)] {
        if !(10..=60_000).contains(&interval) {
            return Err((field, format!("{interval} ms: expected 10 to 60000")));
        }
    }
    let Some(multiplier) = NonZeroU8::new(options.multiplier) else {
        return Err(("bfd.multiplier", "0: expected 1 to 255".to_owned()));
    };
    let interval = |milliseconds: u16| Duration::from_millis(milliseconds.into());
    Ok(CheckedBfd {
        timers: Timers { min_tx: interval(options.min_tx), min_rx: interval(options.min_rx), multiplier },
        hops: if options.multihop.unwrap_or(!next_door) { Hops::Several } else { Hops::One },
    })
}

/// The policy of this name, if it can serve as `import` or `export`.
fn choose_policy(
    policies: &BTreeMap<String, Arc<Policy>>,
    field: &str,
    name: Option<&str>,
) -> Result<Option<Arc<Policy>>, String> {
    let Some(name) = name else { return Ok(None) };
    let policy = policies.get(name).ok_or_else(|| format!("there is no policy `{name}`"))?;
    if field == "import" && policy.terms.iter().any(|term| term.next_hop == Some(TermNextHop::Own)) {
        return Err(format!("policy `{name}` sets next_hop self, which means nothing on import"));
    }
    Ok(Some(Arc::clone(policy)))
}
