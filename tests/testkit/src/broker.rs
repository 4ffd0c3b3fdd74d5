//! A Kafka broker of one test: one KRaft node that requires TLS and a password.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use crate::process::{TestProcess, free_addr, run_to_end};

/// A SCRAM-SHA-512 user of the broker.
#[derive(Debug, Clone, Copy)]
pub struct Scram {
    pub user: &'static str,
    pub password: &'static str,
}

/// A running broker with one `SASL_SSL` listener for clients.
pub struct TestBroker {
    pub process: TestProcess,
    /// host:port for clients.
    pub addr: String,
    /// PEM file of the certificate authority.
    pub ca: PathBuf,
    folder: TempDir,
}

impl TestBroker {
    /// Starts a broker with new certificates and storage, and waits until it is ready.
    pub async fn start(scram: Scram) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (addr, inside, controller) = (free_addr(), free_addr(), free_addr());
        let ca = certificates(folder.path());
        let config = folder.path().join("server.properties");
        let data = folder.path().display();
        // The broker's own requests use a plaintext listener on another port.
        let properties = format!(
            "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{controller}
controller.listener.names=CONTROLLER
listeners=CLIENTS://{addr},INSIDE://{inside},CONTROLLER://{controller}
advertised.listeners=CLIENTS://{addr},INSIDE://{inside}
inter.broker.listener.name=INSIDE
listener.security.protocol.map=CLIENTS:SASL_SSL,INSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.clients.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.clients.ssl.keystore.type=PEM
listener.name.clients.ssl.keystore.location={data}/server.pem
log.dirs={data}/log
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
"
        );
        std::fs::write(&config, properties).expect("server.properties");

        let Scram { user, password } = scram;
        let mut format = java(folder.path(), "kafka.tools.StorageTool");
        let add = format!("SCRAM-SHA-512=[name={user},password={password}]");
        format.args(["format", "--cluster-id", "dGVzdC1jbHVzdGVyLW9uZQ", "--add-scram", &add, "--config"]).arg(&config);
        let output = run_to_end(format, Duration::from_secs(60)).await;
        assert!(output.status.success(), "{output:?}");

        let mut broker = java(folder.path(), "kafka.Kafka");
        broker.arg(&config);
        let process = TestProcess::start("Kafka", broker);
        process.says("Kafka Server started").await;
        Self { process, addr: addr.to_string(), ca, folder }
    }

    /// Writes librdkafka properties for this user and returns the file.
    pub fn client_properties(&self, scram: Scram) -> PathBuf {
        let Scram { user, password } = scram;
        let path = self.folder.path().join(format!("client-{}.properties", uuid::Uuid::now_v7()));
        let ca = self.ca.display();
        let properties = format!(
            "security.protocol=SASL_SSL
sasl.mechanism=SCRAM-SHA-512
sasl.username={user}
sasl.password={password}
ssl.ca.location={ca}
"
        );
        std::fs::write(&path, properties).expect("client.properties");
        path
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        // Its data isn't worth an orderly shutdown.
        if self.process.status().is_none() {
            self.process.kill();
        }
    }
}

/// A Java program of Kafka's jars; `folder` is for its temporary files.
pub fn java(folder: &Path, class: &str) -> Command {
    java_with_heap("256m", folder, class)
}

pub(crate) fn java_with_heap(heap: &str, folder: &Path, class: &str) -> Command {
    let java = std::env::var_os("JAVA_HOME").map_or_else(|| "java".into(), |home| Path::new(&home).join("bin/java"));
    let mut command = Command::new(java);
    command
        .arg(format!("-Xmx{heap}"))
        .args(["-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Djava.awt.headless=true"])
        .arg(format!("-Djava.io.tmpdir={}", folder.display()))
        .arg(concat!("-Dlog4j2.configurationFile=", env!("CARGO_MANIFEST_DIR"), "/../../deploy/local/log4j2.yaml"))
        .arg("-cp")
        .arg(format!("{}/*", crate::kafka_libs()))
        .arg(class);
    command
}

/// Makes an authority and a certificate for a server on loopback (server.pem: key and both
/// certificates). Returns the authority's file.
fn certificates(folder: &Path) -> PathBuf {
    let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(rcgen::DnType::CommonName, "like tests");
    let authority_key = KeyPair::generate().expect("key");
    let authority_certificate = authority.self_signed(&authority_key).expect("certificate");
    let issuer = Issuer::new(authority, authority_key);

    let key = KeyPair::generate().expect("key");
    let server = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).expect("parameters");
    let server = server.signed_by(&key, &issuer).expect("certificate");
    let both = [key.serialize_pem(), server.pem(), authority_certificate.pem()].concat();
    std::fs::write(folder.join("server.pem"), both).expect("server.pem");
    let ca = folder.join("ca.pem");
    std::fs::write(&ca, authority_certificate.pem()).expect("ca.pem");
    ca
}
