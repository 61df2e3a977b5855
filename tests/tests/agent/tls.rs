//! The agent speaks to the API server that its kubeconfig's certificate authority vouches for, and to no other.

use std::{fs, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::json;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, pki_types::PrivateKeyDer},
};

use crate::node::{API, Node, PATIENCE, on_node};

/// Where the API server is behind TLS. Its certificate is of this address.
const FRONT: &str = "127.0.0.1:6444";
const ADDRESS: &str = "127.0.0.1";

struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// TLS with a certificate of this name.
    fn acceptor(&self, name: &str) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![certificate.into()], key).unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// TLS before the API server, and whether each handshake came to an end.
struct Front {
    handshakes: mpsc::UnboundedReceiver<Result<(), String>>,
    serving: JoinHandle<()>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Front {
    /// How the next handshake ends.
    async fn handshake(&mut self) -> Result<(), String> {
        let ended = timeout(PATIENCE, self.handshakes.recv()).await;
        ended.expect("the agent comes in time").expect("the front is there")
    }

    async fn new(acceptor: TlsAcceptor) -> Self {
        let listener = TcpListener::bind(FRONT).await.unwrap();
        let (tell, handshakes) = mpsc::unbounded_channel();
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, tell) = (acceptor.clone(), tell.clone());
                tokio::spawn(async move {
                    let accepted = acceptor.accept(stream).await;
                    // A test that has seen enough is told no more.
                    drop(tell.send(accepted.as_ref().map(|_| ()).map_err(ToString::to_string)));
                    if let Ok(mut stream) = accepted {
                        let mut api = TcpStream::connect(API).await.unwrap();
                        // Who ends a connection ends it.
                        drop(copy_bidirectional(&mut stream, &mut api).await);
                    }
                });
            }
        });
        Self { handshakes, serving }
    }
}

/// Has agents know this authority, or none of their own.
fn trust(node: &Node, authority: Option<&Authority>) {
    let mut cluster = json!({"server": format!("https://{FRONT}")});
    if let Some(authority) = authority {
        let path = node.path("ca.crt");
        fs::write(&path, &authority.certificate).unwrap();
        cluster["certificate-authority"] = json!(path);
    }
    node.put_kubeconfig(&cluster);
}

#[test]
fn an_api_server_with_a_certificate_of_the_authority_is_spoken_to() {
    on_node(async |node| {
        let authority = Authority::new("ours");
        let mut front = Front::new(authority.acceptor(ADDRESS)).await;
        trust(node, Some(&authority));
        node.put_node(&json!({"podCIDRs": ["10.244.1.0/24"]}));
        node.start_speaker();
        node.start_agent();
        assert_eq!(front.handshake().await, Ok(()));
        node.ready().await;
    });
}

/// An agent that gets so far is told nothing, not even its own token.
async fn is_refused(node: &mut Node, acceptor: TlsAcceptor, trusted: Option<&Authority>, why: &str) {
    let mut front = Front::new(acceptor).await;
    trust(node, trusted);
    node.put_node(&json!({"podCIDRs": ["10.244.1.0/24"]}));
    node.start_agent();
    // It tries again, with the same result.
    for _ in 0..2 {
        let handshake = front.handshake().await;
        assert!(handshake.is_err(), "{handshake:?}");
    }
    node.eventually("the agent says why, and not only that it cannot connect", async || {
        let log = fs::read_to_string(node.path("agent.log")).unwrap();
        if log.contains(why) { Ok(()) } else { Err(format!("no `{why}` in its log")) }
    })
    .await;
    assert!(node.get("/readyz").await.is_err());
    assert!(node.api.sent().is_empty(), "the API server answered {:?}", node.api.sent());
}

#[test]
fn one_with_a_certificate_of_another_authority_is_not() {
    on_node(async |node| {
        let acceptor = Authority::new("another").acceptor(ADDRESS);
        is_refused(node, acceptor, Some(&Authority::new("ours")), "UnknownIssuer").await;
    });
}

#[test]
fn one_with_a_certificate_of_another_name_is_not() {
    on_node(async |node| {
        let authority = Authority::new("ours");
        is_refused(node, authority.acceptor("192.0.2.9"), Some(&authority), "not valid for name").await;
    });
}

#[test]
fn one_that_an_authority_of_a_cluster_has_certified_is_not_where_the_kubeconfig_names_none() {
    on_node(async |node| {
        let acceptor = Authority::new("ours").acceptor(ADDRESS);
        is_refused(node, acceptor, None, "UnknownIssuer").await;
    });
}
