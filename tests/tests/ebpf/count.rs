//! The program `margay-count` counts exactly what passes, and lets it pass.

use std::{
    net::{IpAddr, UdpSocket},
    path::PathBuf,
    time::Duration,
};

use aya::{
    Ebpf,
    maps::PerCpuArray,
    programs::{SchedClassifier, TcAttachType},
};
use margay_ebpf_common::traffic::{Counter, Direction, ENTRIES};
use margay_netlink::netns::Namespace;

use crate::pair::{FAR_ADDRESS, NEAR, NEAR_ADDRESS, with_pair};

/// Ethernet, IPv4 and UDP headers.
const HEADERS: usize = 14 + 20 + 8;

#[test]
fn packets_and_octets_are_counted_in_each_direction() {
    with_pair(|far_namespace| {
        let program = load();
        let near = socket(NEAR_ADDRESS);
        let far = {
            let _inside = far_namespace.enter().unwrap();
            socket(FAR_ADDRESS)
        };

        send(&near, &far, 100, 70);
        send(&far, &near, 30, 1000);

        assert_eq!(counted(&program, Direction::Egress), expected(100, 70));
        assert_eq!(counted(&program, Direction::Ingress), expected(30, 1000));
    });
}

#[test]
fn what_passes_before_the_program_is_attached_or_after_it_is_gone_is_not_counted() {
    with_pair(|far_namespace: &Namespace| {
        let near = socket(NEAR_ADDRESS);
        let far = {
            let _inside = far_namespace.enter().unwrap();
            socket(FAR_ADDRESS)
        };
        send(&near, &far, 5, 10);
        let mut program = load();
        send(&near, &far, 7, 10);
        for name in ["count_ingress", "count_egress"] {
            classifier(&mut program, name).unload().unwrap();
        }
        send(&near, &far, 9, 10);

        assert_eq!(counted(&program, Direction::Egress), expected(7, 10));
    });
}

/// Both programs, attached to the near end.
fn load() -> Ebpf {
    let object = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/margay-count");
    assert!(object.exists(), "{} is not built: run `make ebpf`", object.display());
    let mut ebpf = Ebpf::load_file(&object).unwrap();
    let programs = [("count_ingress", TcAttachType::Ingress), ("count_egress", TcAttachType::Egress)];
    for (name, direction) in programs {
        let program = classifier(&mut ebpf, name);
        program.load().unwrap();
        program.attach(NEAR, direction).expect("attach by tcx, which takes Linux 6.6");
    }
    ebpf
}

fn classifier<'e>(ebpf: &'e mut Ebpf, name: &str) -> &'e mut SchedClassifier {
    ebpf.program_mut(name).unwrap_or_else(|| panic!("no program {name} in the object")).try_into().unwrap()
}

fn socket(address: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((address, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

/// Sends datagrams one by one; each has arrived when this returns.
fn send(from: &UdpSocket, to: &UdpSocket, datagrams: usize, octets: usize) {
    let mut buffer = [0; 1500];
    for _ in 0..datagrams {
        from.send_to(&vec![0x5a; octets], to.local_addr().unwrap()).unwrap();
        assert_eq!(to.recv(&mut buffer).expect("the datagram passes"), octets);
    }
}

fn expected(packets: usize, octets: usize) -> Counter {
    Counter { packets: packets as u64, octets: (packets * (HEADERS + octets)) as u64 }
}

fn counted(ebpf: &Ebpf, direction: Direction) -> Counter {
    let map = PerCpuArray::<_, Counter>::try_from(ebpf.map("TRAFFIC").unwrap()).unwrap();
    assert_eq!(map.len(), ENTRIES);
    let by_cpu = map.get(&direction.index(), 0).unwrap();
    by_cpu.iter().fold(Counter::default(), |sum, counter| Counter {
        packets: sum.packets + counter.packets,
        octets: sum.octets + counter.octets,
    })
}
