//! `[source.x] type = "mqtt"`.

use crate::config::schema;
use crate::config::section::Section;
use crate::config::spec::Connector;
use crate::config::value::{FilePath, Period, Secret, Size};
use crate::journal::{JOURNAL_BYTES_MIN, Sync};
use crate::types::fault::Fault;
use crate::types::limit::MESSAGE_BYTES_MAX;
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::Duration;

pub const CONNECTOR: Connector = Connector {
    kind: "mqtt",
    check: |section| validate(section).err().unwrap_or_default(),
    schema: schema::of::<MqttConfig>,
};

/// Messages of an MQTT broker, kept in a local journal before they are acknowledged.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MqttConfig {
    /// `mqtt://host:1883`, or `mqtts://host:8883` with TLS.
    pub url: String,
    /// Topic filters; `+` stands for one level, `#` for the rest, `$share/<group>/<filter>` shares the messages.
    pub topics: Vec<String>,
    /// Names the session at the broker. Nobody else may use it: brokers close the older connection.
    pub client_id: String,
    /// 1: every message at least once. 0: messages are lost while we are away or too slow.
    pub qos: u8,
    /// 4 is MQTT 3.1.1, 5 is MQTT 5.
    pub protocol: u8,
    pub username: Option<String>,
    /// `{ env = "NAME" }` or `{ file = "/run/secrets/name" }`.
    pub password: Option<Secret>,
    /// PEM file with the authorities that may have signed the broker's certificate. Default: the system's.
    pub ca: Option<FilePath>,
    /// PEM file with our own certificate, for brokers that ask for one; needs `key` and `ca`.
    pub cert: Option<FilePath>,
    /// PEM file with the private key of `cert`.
    pub key: Option<FilePath>,
    /// Connections that share the subscription. Several need `share`, or topics that begin with `$share/`.
    pub connections: u16,
    /// Group under which the topics are shared: `fleet/#` becomes `$share/<group>/fleet/#`.
    pub share: Option<String>,
    /// MQTT 5: messages the broker may send before the first is acknowledged, 500 unless given. MQTT 3.1.1 leaves this to
    /// the broker. It bounds what comes twice after a lost connection.
    pub receive_maximum: Option<u16>,
    /// Largest packet whose message is taken, 16 MiB unless given. A smaller limit refuses what is above it: acknowledged,
    /// logged as ERROR with topic and size, and counted in `pipe_mqtt_refused_messages_total`; such a message is lost. Above
    /// 16 MiB (or this, if it is more): MQTT 3.1.1 brokers send it, which ends the connection again and again, and MQTT 5
    /// brokers discard it.
    pub packet_bytes_max: Size,
    pub keep_alive: Period,
    /// True: the broker forgets us when the connection ends, and what was sent meanwhile.
    pub clean_session: bool,
    /// MQTT 5: how long the broker keeps the session, and our messages, while we are away.
    pub session_expiry: Period,
    /// Disk the journal may take. Reached: acknowledgements wait, and the broker keeps what comes.
    pub journal_bytes_max: Size,
    /// When the journal is synced to the disk. `group`: every group of messages, before it is acknowledged; neither a killed
    /// process nor a power loss loses an acknowledged message. `interval`: messages are acknowledged when the operating
    /// system has them, and synced every `sync_interval`; a killed process loses nothing, a power loss (or a crash of the
    /// operating system) loses what was acknowledged in the last `sync_interval` and not applied yet. `none`: acknowledged
    /// when the operating system has them, which decides alone when they reach the disk (Linux: within about 30 s), at the
    /// latest when a segment is full; a killed process loses nothing, a power loss loses what was acknowledged since and
    /// not applied yet. Whatever the mode, an orderly end syncs.
    pub sync: SyncMode,
    /// With `sync = "interval"`: how old an acknowledged message may get before it is on the disk, from 10ms to 10s.
    pub sync_interval: Period,
    /// What to do when the journal is gone or shorter than the records say: `refuse`, or `begin` a new one and give up
    /// what it held.
    pub journal_lost: JournalLost,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JournalLost {
    #[default]
    Refuse,
    Begin,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SyncMode {
    #[default]
    Group,
    Interval,
    None,
}

impl Default for MqttConfig {
    fn default() -> Self {
        MqttConfig {
            url: String::new(),
            topics: Vec::new(),
            client_id: String::new(),
            qos: 1,
            protocol: 4,
            username: None,
            password: None,
            ca: None,
            cert: None,
            key: None,
            connections: 1,
            share: None,
            receive_maximum: None,
            packet_bytes_max: Size(MESSAGE_BYTES_MAX as u64),
            keep_alive: Period::seconds(30),
            clean_session: false,
            session_expiry: Period::seconds(24 * 3600),
            journal_bytes_max: Size::mib(1024),
            sync: SyncMode::Group,
            sync_interval: Period(Duration::from_millis(200)),
            journal_lost: JournalLost::Refuse,
        }
    }
}

/// A broker's address, out of the url.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerAddress {
    pub host: String,
    pub port: u16,
    pub tls: bool,
}

/// The journal acknowledges within about ten milliseconds, so this allows some 50,000 messages per second. Without a limit
/// MQTT 5 allows 65,535, and all of them come again when the connection is lost.
pub const RECEIVE_MAXIMUM: u16 = 500;

/// The largest packet the protocol knows.
const PACKET_BYTES_MAX: u64 = 268_435_455;
/// The client library refuses to ping more often.
const KEEP_ALIVE_SECONDS_MIN: u64 = 5;
/// Shorter is as slow as `group` and safer to write as that; longer is as good as `none`.
const SYNC_INTERVAL_MIN: Duration = Duration::from_millis(10);
const SYNC_INTERVAL_MAX: Duration = Duration::from_secs(10);

impl MqttConfig {
    /// Call after `validate`.
    pub fn address(&self) -> BrokerAddress {
        address(&self.url).expect("the url was validated")
    }

    /// The filters as they are subscribed to.
    pub fn filters(&self) -> Vec<String> {
        let shared = |topic: &String| match &self.share {
            Some(group) if !topic.starts_with(SHARE) => format!("{SHARE}{group}/{topic}"),
            _ => topic.clone(),
        };
        self.topics.iter().map(shared).collect()
    }

    pub fn sync(&self) -> Sync {
        match self.sync {
            SyncMode::Group => Sync::Group,
            SyncMode::Interval => Sync::Interval(self.sync_interval.0),
            SyncMode::None => Sync::None,
        }
    }

    /// One session per connection.
    pub fn client_ids(&self) -> Vec<String> {
        match self.connections {
            1 => vec![self.client_id.clone()],
            n => (1..=n).map(|i| format!("{}-{i}", self.client_id)).collect(),
        }
    }
}

const SHARE: &str = "$share/";

/// Pure: whether the broker is there shows when the source runs.
pub fn validate(section: &Section) -> Result<MqttConfig, Vec<Fault>> {
    let config: MqttConfig = section.read()?;
    let mut faults = Vec::new();
    let mut fault = |key: &str, message: String, hint: &str| {
        faults.push(Fault { hint: Some(hint.to_string()), ..section.fault(key, message) });
    };
    if let Err((message, hint)) = address(&config.url) {
        fault("url", message, hint);
    }
    if config.topics.is_empty() {
        fault("topics", "\"topics\" is empty".into(), "Name at least one filter: topics = [\"fleet/+/kinematic\"].");
    }
    if config.client_id.is_empty() {
        let hint = "Give this pipeline a name of its own at the broker: client_id = \"pipe-fleet\".";
        fault("client_id", "\"client_id\" is missing".into(), hint);
    }
    match config.qos {
        0 | 1 => {}
        2 => {
            let hint = "Use 1: the extra exchange of QoS 2 ends at the broker and does not make what follows exact.";
            fault("qos", "QoS 2 is not supported".into(), hint);
        }
        n => fault("qos", format!("there is no QoS {n}"), "0 or 1."),
    }
    if !matches!(config.protocol, 4 | 5) {
        let hint = "4 is MQTT 3.1.1, 5 is MQTT 5.";
        fault("protocol", format!("there is no MQTT protocol {}", config.protocol), hint);
    }
    if config.protocol == 4 && config.receive_maximum.is_some() {
        let hint = "Set protocol = 5, or limit the broker (Mosquitto: max_inflight_messages).";
        fault("receive_maximum", "\"receive_maximum\" is an option of MQTT 5".into(), hint);
    }
    if config.protocol == 4 && section.has("session_expiry") {
        let hint = "Set protocol = 5, or configure the broker (Mosquitto: persistent_client_expiration).";
        fault("session_expiry", "\"session_expiry\" is an option of MQTT 5".into(), hint);
    }
    if config.receive_maximum == Some(0) {
        fault("receive_maximum", "\"receive_maximum\" is 0".into(), "At least 1.");
    }
    if config.password.is_some() && config.username.is_none() {
        let hint = "MQTT knows no password without a user name: add username = \"...\".";
        fault("password", "\"password\" stands without \"username\"".into(), hint);
    }
    if !(1..=PACKET_BYTES_MAX).contains(&config.packet_bytes_max.0) {
        let hint = "From 1 byte to 256 MiB, which is what the protocol can say.";
        fault("packet_bytes_max", format!("a packet cannot have {} bytes", config.packet_bytes_max.0), hint);
    }
    if !(KEEP_ALIVE_SECONDS_MIN..=u16::MAX as u64).contains(&config.keep_alive.as_secs()) {
        fault("keep_alive", format!("{} cannot be a keep-alive", config.keep_alive), "From 5s to 18h.");
    }
    if config.journal_bytes_max.0 < JOURNAL_BYTES_MIN {
        let hint = "At least 16MiB, so that there is always a part that can be freed.";
        fault("journal_bytes_max", format!("{} is too small for a journal", config.journal_bytes_max), hint);
    }
    if config.sync != SyncMode::Interval && section.has("sync_interval") {
        let hint = "Write sync = \"interval\", or leave it out.";
        fault("sync_interval", "\"sync_interval\" is given, but \"sync\" is not \"interval\"".into(), hint);
    } else if !(SYNC_INTERVAL_MIN..=SYNC_INTERVAL_MAX).contains(&config.sync_interval.0) {
        fault("sync_interval", format!("{} cannot be a sync interval", config.sync_interval), "From 10ms to 10s.");
    }
    tls(&config, &mut fault);
    share(&config, &mut fault);
    for (index, topic) in config.topics.iter().enumerate() {
        if let Err((message, hint)) = filter(topic) {
            faults.push(Fault {
                hint: Some(hint.to_string()),
                ..section.fault_in(&["topics", &index.to_string()], message)
            });
        } else if config.topics[..index].contains(topic) {
            let hint = "A filter that stands twice gives every message twice.";
            let message = format!("\"{topic}\" stands twice");
            faults
                .push(Fault { hint: Some(hint.into()), ..section.fault_in(&["topics", &index.to_string()], message) });
        }
    }
    section.judge(config, faults)
}

fn tls(config: &MqttConfig, fault: &mut impl FnMut(&str, String, &str)) {
    let files = [("ca", &config.ca), ("cert", &config.cert), ("key", &config.key)];
    let given = || files.iter().filter(|(_, file)| file.is_some()).map(|(key, _)| *key);
    if address(&config.url).is_ok_and(|a| !a.tls)
        && let Some(first) = given().next()
    {
        let hint = "Write mqtts:// in \"url\".";
        fault(first, format!("\"{first}\" is given, but the connection does not use TLS"), hint);
    }
    match (&config.cert, &config.key) {
        (Some(_), None) => {
            fault("cert", "\"cert\" stands without \"key\"".into(), "Add the PEM file of its private key.")
        }
        (None, Some(_)) => {
            fault("key", "\"key\" stands without \"cert\"".into(), "Add the PEM file of our certificate.")
        }
        (Some(_), Some(_)) if config.ca.is_none() => {
            let hint = "Name the authority of the broker's certificate, such as ca = \"AmazonRootCA1.pem\".";
            fault("cert", "\"cert\" stands without \"ca\"".into(), hint);
        }
        _ => {}
    }
}

fn share(config: &MqttConfig, fault: &mut impl FnMut(&str, String, &str)) {
    if config.connections == 0 {
        fault("connections", "\"connections\" is 0".into(), "At least 1.");
    }
    if let Some(group) = &config.share
        && (group.is_empty() || group.contains(['/', '+', '#']))
    {
        fault("share", format!("\"{group}\" cannot be the name of a group"), "Letters, digits, \"-\" and \"_\".");
    }
    let alone = config.topics.iter().find(|t| !t.starts_with(SHARE));
    if config.connections > 1
        && config.share.is_none()
        && let Some(alone) = alone
    {
        let hint = "Add share = \"pipe\" so that the broker deals the messages out to the connections.";
        fault("connections", format!("every connection would get every message of \"{alone}\""), hint);
    }
}

type Trouble = (String, &'static str);

const URL_HINT: &str = "mqtt://host:1883, or mqtts://host:8883 with TLS.";

fn address(url: &str) -> Result<BrokerAddress, Trouble> {
    let trouble = |message: &str| Err((message.to_string(), URL_HINT));
    if url.is_empty() {
        return trouble("\"url\" is missing");
    }
    let Ok(parsed) = url::Url::parse(url) else { return trouble("\"url\" is not an address") };
    let tls = match parsed.scheme() {
        "mqtt" | "tcp" => false,
        "mqtts" | "ssl" => true,
        _ => return trouble("\"url\" begins with neither mqtt:// nor mqtts://"),
    };
    // The text of the url is never repeated: it may hold a password (I12).
    if !parsed.username().is_empty() || parsed.password().is_some() {
        let hint = "Write username = \"...\" and password = { env = \"NAME\" }.";
        return Err(("\"url\" holds a user name or password".to_string(), hint));
    }
    if !matches!(parsed.path(), "" | "/") || parsed.query().is_some() || parsed.fragment().is_some() {
        return trouble("\"url\" goes on after the port");
    }
    let Some(host) = parsed.host_str().filter(|h| !h.is_empty()) else { return trouble("\"url\" names no host") };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_string();
    Ok(BrokerAddress { host, port: parsed.port().unwrap_or(if tls { 8883 } else { 1883 }), tls })
}

/// Is this a topic filter?
fn filter(topic: &str) -> Result<(), Trouble> {
    let mut rest = topic;
    if let Some(shared) = topic.strip_prefix(SHARE) {
        let Some((group, filter)) = shared.split_once('/').filter(|(group, _)| !group.is_empty()) else {
            return Err((format!("\"{topic}\" shares no topic"), "$share/<group>/<filter>."));
        };
        if group.contains(['+', '#']) {
            return Err((format!("the group of \"{topic}\" has a wildcard"), "$share/<group>/<filter>."));
        }
        rest = filter;
    }
    if rest.is_empty() {
        return Err(("a topic filter is empty".to_string(), "Name a topic, such as \"fleet/+/kinematic\"."));
    }
    if rest.len() > u16::MAX as usize || rest.contains('\0') {
        return Err(("a topic filter is too long or holds a zero byte".to_string(), "At most 65535 bytes."));
    }
    let levels: Vec<&str> = rest.split('/').collect();
    for (index, level) in levels.iter().enumerate() {
        let hint = "\"+\" stands for one whole level, \"#\" for all that follow, at the end.";
        if level.contains('+') && *level != "+" {
            return Err((format!("\"+\" is not alone in its level in \"{topic}\""), hint));
        }
        if level.contains('#') && (*level != "#" || index + 1 != levels.len()) {
            return Err((format!("\"#\" is not the last level of \"{topic}\""), hint));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "url = \"mqtt://127.0.0.1:1883\"\ntopics = [\"fleet/+/kinematic\"]\nclient_id = \"pipe\"\n";

    /// GOOD with lines replaced or added; the faults as "line: message".
    fn faults(changes: &[&str]) -> Vec<String> {
        let key = |line: &str| line.split_once('=').map(|(k, _)| k.trim().to_string());
        let mut lines: Vec<String> = GOOD.lines().map(str::to_string).collect();
        for change in changes {
            match lines.iter().position(|line| key(line) == key(change)) {
                Some(at) => lines[at] = change.to_string(),
                None => lines.push(change.to_string()),
            }
        }
        let section = Section::from_text("mqtt", "fleet", &lines.join("\n")).expect("it is TOML");
        let faults = validate(&section).err().unwrap_or_default();
        assert!(faults.iter().all(|f| f.hint.is_some()), "a hint for every fault: {faults:?}");
        faults.into_iter().map(|f| f.message).collect()
    }

    #[track_caller]
    fn check(changes: &[&str], expected: &[&str]) {
        assert_eq!(faults(changes), expected, "{changes:?}");
    }

    #[test]
    fn what_cannot_work_is_said_before_anything_starts() {
        check(&["url = \"\""], &["\"url\" is missing"]);
        check(&["url = \"localhost:1883\""], &["\"url\" begins with neither mqtt:// nor mqtts://"]);
        check(&["url = \"http://host\""], &["\"url\" begins with neither mqtt:// nor mqtts://"]);
        check(&["url = \"mqtt://me:secret@host\""], &["\"url\" holds a user name or password"]);
        check(&["url = \"mqtt://host/topic\""], &["\"url\" goes on after the port"]);
        check(&["topics = []"], &["\"topics\" is empty"]);
        check(&["topics = [\"a\", \"a\"]"], &["\"a\" stands twice"]);
        check(&["topics = [\"\"]"], &["a topic filter is empty"]);
        check(&["topics = [\"a/b+/c\"]"], &["\"+\" is not alone in its level in \"a/b+/c\""]);
        check(&["topics = [\"a/#/c\"]"], &["\"#\" is not the last level of \"a/#/c\""]);
        check(&["topics = [\"$share/g\"]"], &["\"$share/g\" shares no topic"]);
        check(&["topics = [\"$share//a\"]"], &["\"$share//a\" shares no topic"]);
        check(&["client_id = \"\""], &["\"client_id\" is missing"]);
        check(&["qos = 2"], &["QoS 2 is not supported"]);
        check(&["qos = 3"], &["there is no QoS 3"]);
        check(&["protocol = 3"], &["there is no MQTT protocol 3"]);
        check(&["receive_maximum = 5"], &["\"receive_maximum\" is an option of MQTT 5"]);
        check(&["session_expiry = \"1h\""], &["\"session_expiry\" is an option of MQTT 5"]);
        check(&["protocol = 5", "receive_maximum = 0"], &["\"receive_maximum\" is 0"]);
        check(&["password = \"x\""], &["\"password\" stands without \"username\""]);
        check(&["packet_bytes_max = \"1GiB\""], &["a packet cannot have 1073741824 bytes"]);
        check(&["keep_alive = \"1s\""], &["1s cannot be a keep-alive"]);
        check(&["journal_bytes_max = \"1MiB\""], &["1MiB is too small for a journal"]);
        check(&["sync_interval = \"1s\""], &["\"sync_interval\" is given, but \"sync\" is not \"interval\""]);
        check(&["sync = \"interval\"", "sync_interval = \"1ms\""], &["1ms cannot be a sync interval"]);
        check(&["sync = \"interval\"", "sync_interval = \"1m\""], &["1m cannot be a sync interval"]);
        check(&["ca = \"ca.pem\""], &["\"ca\" is given, but the connection does not use TLS"]);
        let tls = "url = \"mqtts://host\"";
        check(&[tls, "cert = \"c.pem\""], &["\"cert\" stands without \"key\""]);
        check(&[tls, "key = \"k.pem\""], &["\"key\" stands without \"cert\""]);
        check(&[tls, "cert = \"c.pem\"", "key = \"k.pem\""], &["\"cert\" stands without \"ca\""]);
        check(&["connections = 0"], &["\"connections\" is 0"]);
        check(&["connections = 2"], &["every connection would get every message of \"fleet/+/kinematic\""]);
        check(&["share = \"a/b\""], &["\"a/b\" cannot be the name of a group"]);
        let two = faults(&["qos = 2", "topics = []"]);
        assert_eq!(two.len(), 2, "all faults at once: {two:?}");
    }

    #[test]
    fn what_works_is_read_with_its_defaults() {
        check(&[], &[]);
        check(&["protocol = 5", "receive_maximum = 100", "session_expiry = \"7d\""], &[]);
        check(&["topics = [\"#\"]"], &[]);
        check(&["topics = [\"+\", \"$SYS/#\", \"/leading\", \"with space/ä\"]"], &[]);
        check(&["connections = 2", "topics = [\"$share/g/a/#\"]"], &[]);
        check(&["sync = \"interval\"", "sync_interval = \"50ms\""], &[]);
        check(&["sync = \"none\""], &[]);
        let read = |text: &str| {
            let section = Section::from_text("mqtt", "fleet", &format!("{GOOD}{text}")).expect("it is TOML");
            validate(&section).expect("no faults")
        };
        let config = read("");
        assert_eq!((config.qos, config.protocol, config.clean_session), (1, 4, false));
        assert_eq!(config.packet_bytes_max, Size::mib(16), "as much as a message of any source may have");
        assert_eq!(config.address(), BrokerAddress { host: "127.0.0.1".into(), port: 1883, tls: false });
        assert_eq!((config.filters(), config.client_ids()), (vec!["fleet/+/kinematic".into()], vec!["pipe".into()]));
        let config = read("connections = 2\nshare = \"g\"\n");
        assert_eq!(config.filters(), ["$share/g/fleet/+/kinematic"]);
        assert_eq!(config.client_ids(), ["pipe-1", "pipe-2"]);
    }

    #[test]
    fn addresses_have_a_port_of_their_own_kind() {
        let parsed = |url| address(url).map(|a| (a.host, a.port, a.tls)).expect("an address");
        assert_eq!(parsed("mqtt://broker"), ("broker".into(), 1883, false));
        assert_eq!(parsed("mqtts://broker"), ("broker".into(), 8883, true));
        assert_eq!(parsed("mqtts://broker:443/"), ("broker".into(), 443, true));
        assert_eq!(parsed("mqtt://[::1]:1884"), ("::1".into(), 1884, false));
    }
}
