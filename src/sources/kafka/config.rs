//! `[source.x] type = "kafka"`.

use crate::config::schema;
use crate::config::section::Section;
use crate::config::spec::Connector;
use crate::config::value::Settings;
use crate::sources::kafka::property;
use crate::types::fault::{Fault, closest};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeSet;

pub const CONNECTOR: Connector = Connector {
    kind: "kafka",
    check: |section| validate(section).err().unwrap_or_default(),
    schema: schema::of::<KafkaConfig>,
};

/// Topics of a Kafka cluster. Partitions are assigned by us and positions come from the record; there is no consumer
/// group to join.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// host:port of some brokers; the others are found through them.
    pub brokers: Vec<String>,
    pub topics: Vec<String>,
    /// Name under which applied positions are committed, so that lag tools can show them. Never read back.
    #[serde(default)]
    pub group: Option<String>,
    /// Where to begin in a topic that the record does not know.
    #[serde(default)]
    pub start: StartAt,
    /// librdkafka's own settings, such as "security.protocol", "sasl.username" or "ssl.ca.location"; values may be secrets.
    #[serde(default)]
    pub properties: Settings,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StartAt {
    #[default]
    Earliest,
    Latest,
}

/// Pure: whether brokers and topics are there shows when the source runs, and the values of properties when it is opened.
pub fn validate(section: &Section) -> Result<KafkaConfig, Vec<Fault>> {
    let config: KafkaConfig = section.read()?;
    let fault =
        |path: &[&str], message: String, hint: String| Fault { hint: Some(hint), ..section.fault_in(path, message) };
    let mut faults = Vec::new();
    if config.brokers.is_empty() {
        let hint = "Name at least one as host:port.".into();
        faults.push(fault(&["brokers"], "\"brokers\" is empty".into(), hint));
    }
    for (i, broker) in config.brokers.iter().enumerate() {
        let good = broker.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !good {
            let hint = "For example \"kafka-1.example.org:9092\". TLS is set in properties.".into();
            faults.push(fault(&["brokers", &i.to_string()], "a broker is not host:port".into(), hint));
        }
    }
    if config.topics.is_empty() {
        faults.push(fault(&["topics"], "\"topics\" is empty".into(), "Name at least one topic.".into()));
    }
    let mut seen = BTreeSet::new();
    for (i, topic) in config.topics.iter().enumerate() {
        let at = ["topics", &i.to_string()];
        if !is_topic_name(topic) {
            let hint = "Up to 249 letters, digits, \".\", \"_\" and \"-\"; patterns are not supported.".into();
            faults.push(fault(&at, format!("\"{topic}\" is not a topic name"), hint));
        }
        if !seen.insert(topic) {
            faults.push(fault(&at, format!("topic \"{topic}\" is named twice"), "Remove one of them.".into()));
        }
    }
    if config.group.as_deref() == Some("") {
        faults.push(fault(&["group"], "\"group\" is empty".into(), "Name it, or remove the key.".into()));
    }
    for key in config.properties.keys() {
        let at = ["properties", key];
        if let Some((why, hint)) = property::refused(key) {
            faults.push(fault(&at, format!("property \"{key}\" is refused: {why}"), hint.into()));
        } else if !property::exists(key) {
            let hint = match closest(key, property::COMMON.iter().copied()) {
                Some(near) => format!("Did you mean \"{near}\"?"),
                None => "See librdkafka's CONFIGURATION.md.".into(),
            };
            faults.push(fault(&at, format!("property \"{key}\" does not exist in librdkafka"), hint));
        }
    }
    section.judge(config, faults)
}

/// Kafka's own rule.
fn is_topic_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 249
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(more: &str) -> String {
        let mut text = String::from("brokers = ['h:9092']\n");
        if !more.contains("topics = ") {
            text.push_str("topics = ['t']\n");
        }
        let section = Section::from_text("kafka", "x", &format!("{text}{more}")).expect("TOML");
        match validate(&section) {
            Ok(_) => "ok".into(),
            Err(faults) => faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("\n"),
        }
    }

    #[test]
    fn properties_that_would_break_a_promise_are_refused_with_a_way_out() {
        for (key, _, _) in property::REFUSED {
            let said = check(&format!("properties = {{ '{key}' = '1' }}"));
            assert!(
                said.contains(&format!("property \"{key}\" is refused: ")) && said.contains("hint: "),
                "{key}: {said}"
            );
        }
        let said = check("properties = { 'isolation.level' = 'read_uncommitted' }");
        assert_eq!(
            said,
            "pipeline.toml:3:36: property \"isolation.level\" is refused: messages of aborted transactions would reach the tables\n  \
             hint: We always read committed messages only; remove it."
        );
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let said = check("topics = ['a b', 't', 't']\ngroup = ''\nproperties = { 'sasl.user' = 'x' }");
        let lines: Vec<&str> = said.lines().filter(|l| !l.starts_with("  hint")).collect();
        assert_eq!(
            lines,
            [
                "pipeline.toml:2:11: \"a b\" is not a topic name",
                "pipeline.toml:2:23: topic \"t\" is named twice",
                "pipeline.toml:3:9: \"group\" is empty",
                "pipeline.toml:4:30: property \"sasl.user\" does not exist in librdkafka",
            ]
        );
    }

    #[test]
    fn the_usual_properties_are_accepted() {
        for key in property::COMMON {
            assert_eq!(check(&format!("properties = {{ '{key}' = 'x' }}")), "ok", "{key}");
        }
        assert_eq!(check("start = 'latest'\nproperties = { 'sasl.password' = { env = 'PASSWORD' } }"), "ok");
    }
}
