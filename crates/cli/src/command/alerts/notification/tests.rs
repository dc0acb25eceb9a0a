use std::slice;

use serde_json::{Value, json};

use super::*;

const BEGAN: &str = "2026-07-27T10:00:00.123Z";
const LATER: &str = "2026-07-27T11:00:00Z";

fn alert(node: &str, status: &str, began: &str) -> Value {
    json!({
        "status": status,
        "labels": {"alertname": "ConclaveNodeDown", "severity": "critical", "node": node},
        "annotations": {"summary": format!("{node} does\nnot answer")},
        "startsAt": began,
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus/graph",
        "fingerprint": "0123456789abcdef",
    })
}

fn body(alerts: &[Value]) -> Value {
    json!({
        "version": "4", "groupKey": "{}:{alertname=\"ConclaveNodeDown\"}", "truncatedAlerts": 0, "status": "firing",
        "receiver": "conclave", "groupLabels": {}, "commonLabels": {},
        "commonAnnotations": {"runbook_url": "https://runbooks/#conclavenodedown"},
        "externalURL": "http://alertmanager", "alerts": alerts,
    })
}

fn read(alerts: &[Value]) -> Notification {
    Notification::read(body(alerts).to_string().as_bytes()).unwrap()
}

/// The lines about these webhooks, one after the other.
fn lines(known: &mut Known, webhooks: &[&[Value]]) -> Vec<Option<String>> {
    let line = |alerts: &&[Value]| {
        let news = read(alerts).news("ops", known)?;
        for (number, state) in &news.states {
            assert!(known.get(number).is_none_or(|last| last < state), "a state only grows");
        }
        known.extend(news.states);
        Some(news.text)
    };
    webhooks.iter().map(line).collect()
}

#[test]
fn a_line_names_the_alerts_that_changed_and_a_repeated_webhook_has_none() {
    let mut known = Known::new();
    let (one, two) = (alert("n1", "firing", BEGAN), alert("n2", "firing", BEGAN));
    let over = alert("n1", "resolved", BEGAN);
    let said = lines(
        &mut known,
        &[
            slice::from_ref(&one),
            slice::from_ref(&one),
            &[one.clone(), two.clone()],
            &[two.clone(), one.clone()],
            &[over.clone(), two.clone()],
            &[over, two],
        ],
    );
    let said: Vec<&str> = said.iter().map(|line| line.as_deref().unwrap_or("")).collect();
    let runbook = " | https://runbooks/#conclavenodedown";
    assert_eq!(
        said,
        [
            format!("FIRING ConclaveNodeDown (critical): n1 does not answer{runbook}"),
            String::new(),
            format!(
                "FIRING ConclaveNodeDown (critical): n2 does not answer | 2 firing in this group{runbook}"
            ),
            String::new(),
            format!(
                "RESOLVED ConclaveNodeDown (critical): n1 does not answer | 1 firing in this group{runbook}"
            ),
            String::new(),
        ]
    );
}

#[test]
fn an_alert_that_fires_again_is_news_also_with_the_same_beginning() {
    let mut known = Known::new();
    let (firing, over) = (alert("n1", "firing", BEGAN), alert("n1", "resolved", BEGAN));
    let again = alert("n1", "firing", LATER);
    let said = lines(&mut known, &[&firing, &again, &again, &over, &over, &firing].map(slice::from_ref));
    let is_news: Vec<bool> = said.iter().map(Option::is_some).collect();
    assert_eq!(is_news, [true, true, false, true, false, true]);
}

#[test]
fn groups_and_rooms_have_their_own_states() {
    let firing = read(&[alert("n1", "firing", BEGAN)]);
    let known = firing.news("ops", &Known::new()).unwrap().states;
    assert_eq!(firing.news("ops", &known), None);
    assert!(firing.news("other", &known).is_some());
    let other = Notification { group_key: "other".to_owned(), ..firing };
    assert!(other.news("ops", &known).is_some());
}

#[test]
fn labels_of_another_shape_are_another_alert() {
    let labels = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>()
    };
    let one = number(&["ops"], &labels(&[("a", "bc")]));
    assert_ne!(one, number(&["ops"], &labels(&[("ab", "c")])));
    assert_ne!(one, number(&["ops", "a", "bc"], &labels(&[])) ^ 1);
    assert_eq!(one, 0x07e5_66eb_085c_6d4c, "it is kept on disk, and must not change");
}

#[test]
fn a_line_is_bounded_and_has_no_control_characters() {
    let mut many: Vec<Value> = (0..500).map(|n| alert(&format!("n{n}"), "firing", BEGAN)).collect();
    for alert in &mut many {
        alert["annotations"]["summary"] =
            json!(format!("{}\u{1b}[2J\r\n{}", alert["labels"]["node"], "ä".repeat(2_000)));
        alert["labels"]["alertname"] = json!(format!("Alert {}", alert["labels"]["node"]));
    }
    let text = read(&many).news("ops", &Known::new()).unwrap().text;
    assert!(text.len() <= ALERTS_TEXT_BYTES_MAX && text.ends_with('…'), "{text}");
    assert!(!text.contains(char::is_control), "{text:?}");

    let few: Vec<Value> = (0..12).map(|n| alert(&format!("n{n}"), "firing", BEGAN)).collect();
    assert!(read(&few).news("ops", &Known::new()).unwrap().text.contains("and 2 more"));
    let mut bare = alert("n1", "firing", BEGAN);
    bare.as_object_mut().unwrap().remove("annotations");
    let text = read(&[bare]).news("ops", &Known::new()).unwrap().text;
    assert!(text.starts_with("FIRING ConclaveNodeDown (critical): node=n1 |"), "{text}");
}

#[test]
fn a_wrong_body_is_refused_with_what_is_wrong() {
    let good = body(&[alert("n1", "firing", BEGAN)]);
    let wrong = |path: &str, value: Value| {
        let mut body = good.clone();
        *body.pointer_mut(path).unwrap() = value;
        Notification::read(body.to_string().as_bytes()).unwrap_err()
    };
    assert!(wrong("/version", json!("5")).contains("version \"5\""));
    assert!(wrong("/alerts", json!([])).contains("no alerts"));
    assert!(wrong("/alerts/0/startsAt", json!("now")).contains("startsAt of alerts[0]"));
    assert!(wrong("/alerts/0/status", json!("odd")).contains("odd"));
    assert!(wrong("/groupKey", json!(7)).contains("not the body"));
    assert!(Notification::read(b"{").unwrap_err().contains("not the body"));
    assert!(Notification::read(b"").is_err());
}
