//! `docs/asyncapi.yaml` says what the code does: the same names, limits, patterns and settings, and
//! examples that are what they say. That it is valid AsyncAPI is checked by `make contract`.

use std::collections::BTreeSet;

use like_events::Reject;
use like_events::ids::{PRODUCT_ID_MAX, PRODUCT_ID_PATTERN, USER_ID_MAX, USER_ID_PATTERN};
use like_events::topic::{
    DEFAULT_PARTITIONS, DEFAULT_TOPIC, MAX_VALUE_BYTES, PARTITIONER, TOPIC_SETTINGS, min_insync_replicas,
};
use like_events::{EventId, LikeEvent, ProductId, UserId, decode};
use serde_json::{Value, json};

fn document() -> Value {
    let text = include_str!("../../../docs/asyncapi.yaml");
    yaml_serde::from_str(text).expect("docs/asyncapi.yaml is YAML")
}

/// Fails naming the place in the document.
#[track_caller]
fn says(document: &Value, place: &str, expected: &Value) {
    let found = document.pointer(place).unwrap_or_else(|| panic!("docs/asyncapi.yaml has no {place}"));
    assert_eq!(found, expected, "docs/asyncapi.yaml, {place}: left is the document's, right the code's");
}

#[test]
fn the_topic_is_the_one_that_setup_makes() {
    let document = document();
    let channel = "/channels/likeUpdates";
    says(&document, &format!("{channel}/address"), &json!(DEFAULT_TOPIC));
    says(&document, &format!("{channel}/bindings/kafka/topic"), &json!(DEFAULT_TOPIC));
    says(&document, &format!("{channel}/bindings/kafka/partitions"), &json!(DEFAULT_PARTITIONS));
    says(&document, &format!("{channel}/x-partitioner"), &json!(PARTITIONER));

    let mut settings = json!({ "min.insync.replicas": min_insync_replicas(3) });
    for (name, value) in TOPIC_SETTINGS {
        settings[name] = value.into();
    }
    says(&document, &format!("{channel}/x-topic-settings"), &settings);
    // The binding knows three of them, in types of its own.
    let typed = json!({
        "cleanup.policy": [settings["cleanup.policy"]],
        "retention.ms": settings["retention.ms"].as_str().unwrap().parse::<i64>().unwrap(),
        "retention.bytes": settings["retention.bytes"].as_str().unwrap().parse::<i64>().unwrap(),
    });
    says(&document, &format!("{channel}/bindings/kafka/topicConfiguration"), &typed);
}

#[test]
fn limits_and_patterns_are_those_that_events_are_checked_by() {
    let document = document();
    let product = "/components/schemas/productId";
    says(&document, &format!("{product}/pattern"), &json!(PRODUCT_ID_PATTERN));
    says(&document, &format!("{product}/maxLength"), &json!(PRODUCT_ID_MAX));
    let user = "/components/schemas/likeUpdate/properties/userId";
    says(&document, &format!("{user}/pattern"), &json!(USER_ID_PATTERN));
    says(&document, &format!("{user}/maxLength"), &json!(USER_ID_MAX));
    says(&document, "/components/messages/likeUpdate/x-max-value-bytes", &json!(MAX_VALUE_BYTES));
    says(
        &document,
        "/components/messages/likeUpdate/bindings/kafka/key/$ref",
        &json!("#/components/schemas/productId"),
    );
}

#[test]
fn fields_are_those_that_are_written_and_required_those_that_cannot_be_left_out() {
    let document = document();
    let schema = &document["components"]["schemas"]["likeUpdate"];
    let event = LikeEvent {
        event_id: EventId::random(),
        liked: true,
        product_id: ProductId::parse("p42").unwrap(),
        user_id: Some(UserId::parse("u7").unwrap()),
        occurred_at: chrono::Utc::now(),
    };
    let written: Value = serde_json::from_slice(&event.to_json()).unwrap();
    let names = |object: &Value| object.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&schema["properties"]), names(&written), "left is the document's, right the code's");

    for field in names(&written) {
        let mut without = written.clone();
        without.as_object_mut().unwrap().remove(&field);
        let value = serde_json::to_vec(&without).unwrap();
        let required = schema["required"].as_array().unwrap().contains(&json!(field));
        let taken = decode(Some(b"p42"), Some(&value));
        assert_eq!(required, taken.is_err(), "{field}: {taken:?}");
    }
    for (wish, taken) in [("LIKED", true), ("UNLIKED", true), ("liked", false), ("", false)] {
        let mut event = written.clone();
        event["type"] = wish.into();
        let value = serde_json::to_vec(&event).unwrap();
        assert_eq!(decode(Some(b"p42"), Some(&value)).is_ok(), taken, "{wish}");
        let named = schema["properties"]["type"]["enum"].as_array().unwrap().contains(&json!(wish));
        assert_eq!(named, taken, "docs/asyncapi.yaml: {wish}");
    }
}

#[test]
fn each_example_is_an_event_of_the_kind_that_it_is_named_after() {
    let document = document();
    let examples = document["components"]["messages"]["likeUpdate"]["examples"].as_array().unwrap();
    let mut kinds = Vec::new();
    for example in examples {
        let name = example["name"].as_str().unwrap();
        let key = example["payload"]["productId"].as_str().unwrap();
        let value = serde_json::to_vec(&example["payload"]).unwrap();
        let event = decode(Some(key.as_bytes()), Some(&value)).unwrap_or_else(|e| panic!("example {name}: {e}"));
        kinds.push((name, event.liked, event.user_id.is_some()));
    }
    assert_eq!(kinds, [("like", true, true), ("unlike", false, true), ("delta", true, false)]);
}

#[test]
fn the_reasons_of_dead_letters_are_all_there_are() {
    let all = [
        Reject::Tombstone,
        Reject::TooLarge(0),
        Reject::KeyMissing,
        Reject::KeyMismatch(String::new()),
        Reject::NotUtf8(0),
        Reject::NotJson(String::new()),
        Reject::FieldMissing(""),
        Reject::FieldType { field: "", found: "" },
        Reject::FieldInvalid { field: "", rule: String::new() },
        Reject::Timestamp(0),
    ];
    for reject in &all {
        // One more kind, and this doesn't compile until it is in the list above.
        match reject {
            Reject::Tombstone
            | Reject::TooLarge(_)
            | Reject::KeyMissing
            | Reject::KeyMismatch(_)
            | Reject::NotUtf8(_)
            | Reject::NotJson(_)
            | Reject::FieldMissing(_)
            | Reject::FieldType { .. }
            | Reject::FieldInvalid { .. }
            | Reject::Timestamp(_) => {}
        }
    }
    let document = document();
    let reasons = document["components"]["messages"]["likeUpdate"]["x-dead-letter-reasons"].as_object().unwrap();
    let named: BTreeSet<_> = reasons.keys().map(String::as_str).collect();
    let codes = all.iter().map(Reject::code).collect();
    assert_eq!(named, codes, "left is docs/asyncapi.yaml's, right the code's");
}
