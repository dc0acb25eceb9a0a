//! A webhook of Alertmanager: its body, the changes in it, and the line about them. Pure.
//!
//! The last state of each alert is one number, which only grows, as a position in an outbox does: when the alert began, and
//! how often it has changed since. So a webhook that is repeated, at once or hours later, has no change, and one with several
//! alerts has those alone that did change.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::limits::{ALERT_SUMMARY_CHARS_MAX, ALERTS_SHOWN_MAX, ALERTS_TEXT_BYTES_MAX};

/// The version of the payload that Alertmanager sends since 0.6.
const VERSION: &str = "4";
/// Bits for how often an alert has changed; the last of them says whether it is resolved. More changes than fit count as a
/// beginning that is a millisecond later.
const CHANGES_BITS: u32 = 16;

/// One group of alerts.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Notification {
    version: String,
    group_key: String,
    #[serde(default)]
    truncated_alerts: u64,
    #[serde(default)]
    common_annotations: BTreeMap<String, String>,
    alerts: Vec<Alert>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Alert {
    status: Status,
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    starts_at: String,
    /// `starts_at` in milliseconds since 1970.
    #[serde(skip)]
    began_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Firing,
    Resolved,
}

/// The states of alerts that are known, by their numbers.
pub(super) type Known = BTreeMap<u64, u64>;

/// What a notification changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct News {
    /// The new states of alerts, by their numbers.
    pub(super) states: Known,
    /// One line.
    pub(super) text: String,
}

impl Notification {
    /// Reads a body.
    ///
    /// # Errors
    /// With what is wrong with it.
    pub(super) fn read(body: &[u8]) -> Result<Self, String> {
        let mut read: Self = serde_json::from_slice(body).map_err(|error| {
            format!("this is not the body of an Alertmanager's webhook, version {VERSION}: {error}")
        })?;
        if read.version != VERSION {
            return Err(format!("the webhook has version {:?}; only {VERSION:?} is known", read.version));
        }
        if read.alerts.is_empty() {
            return Err("the webhook has no alerts".to_owned());
        }
        for (alert, at) in read.alerts.iter_mut().zip(0..) {
            let began: Timestamp = alert.starts_at.parse().map_err(|error| {
                format!("startsAt of alerts[{at}], {:?}, is no time: {error}", alert.starts_at)
            })?;
            alert.began_ms = u64::try_from(began.as_millisecond()).unwrap_or(0);
        }
        Ok(read)
    }

    /// What is new in a room that knows these states; `None` if nothing is.
    pub(super) fn news(&self, room: &str, known: &Known) -> Option<News> {
        let mut states = Known::new();
        let mut changed = Vec::new();
        for alert in &self.alerts {
            let number = number(&[room, &self.group_key], &alert.labels);
            let last = states.get(&number).or_else(|| known.get(&number));
            if let Some(state) = alert.new_state(last.copied()) {
                states.insert(number, state);
                changed.push(alert);
            }
        }
        (!changed.is_empty()).then(|| News { states, text: self.text(&changed) })
    }

    /// One line about the alerts that changed.
    fn text(&self, changed: &[&Alert]) -> String {
        let mut parts = Vec::new();
        for (status, word) in [(Status::Firing, "FIRING"), (Status::Resolved, "RESOLVED")] {
            let mut titles: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for alert in changed.iter().filter(|alert| alert.status == status) {
                titles.entry(alert.title()).or_default().push(alert.summary());
            }
            for (title, mut summaries) in titles {
                let more = summaries.len().saturating_sub(ALERTS_SHOWN_MAX);
                summaries.truncate(ALERTS_SHOWN_MAX);
                if more > 0 {
                    summaries.push(format!("and {more} more"));
                }
                parts.push(format!("{word} {title}: {}", summaries.join("; ")));
            }
        }
        let firing = |alerts: &mut dyn Iterator<Item = &Alert>| {
            alerts.filter(|alert| alert.status == Status::Firing).count() as u64
        };
        let (now, new) = (firing(&mut self.alerts.iter()), firing(&mut changed.iter().copied()));
        match self.truncated_alerts {
            0 if now > new => parts.push(format!("{now} firing in this group")),
            0 => {}
            more => parts.push(format!("{more} alerts of this group were left out by Alertmanager")),
        }
        if let Some(runbook) = self.common_annotations.get("runbook_url") {
            parts.push(plain(runbook, ALERT_SUMMARY_CHARS_MAX));
        }
        cut(parts.join(" | "), ALERTS_TEXT_BYTES_MAX)
    }
}

impl Alert {
    /// The state after this alert, if it differs from the last one.
    fn new_state(&self, last: Option<u64>) -> Option<u64> {
        let resolved = u64::from(self.status == Status::Resolved);
        let Some(last) = last else { return Some(self.began_ms << CHANGES_BITS | resolved) };
        if self.began_ms > last >> CHANGES_BITS {
            return Some(self.began_ms << CHANGES_BITS | resolved);
        }
        // Also of an earlier beginning: an Alertmanager that had lost sight of an alert, or two Prometheuses that began to see
        // it at different times, move it. To miss a change would be worse than to say one twice.
        (last & 1 != resolved).then(|| last.saturating_add(1))
    }

    fn title(&self) -> String {
        let name = self.labels.get("alertname").map_or("alert", String::as_str);
        let severity = self.labels.get("severity").map(|severity| format!(" ({severity})"));
        plain(&format!("{name}{}", severity.unwrap_or_default()), ALERT_SUMMARY_CHARS_MAX)
    }

    fn summary(&self) -> String {
        let written = ["summary", "description", "message"].iter().find_map(|key| self.annotations.get(*key));
        match written {
            Some(text) => plain(text, ALERT_SUMMARY_CHARS_MAX),
            None => {
                let others = self.labels.iter().filter(|(key, _)| *key != "alertname" && *key != "severity");
                let shown: Vec<String> = others.map(|(key, value)| format!("{key}={value}")).collect();
                plain(&shown.join(", "), ALERT_SUMMARY_CHARS_MAX)
            }
        }
    }
}

/// Whether a state says that its alert is resolved.
pub(super) fn is_resolved(state: u64) -> bool {
    state & 1 == 1
}

/// The number of an alert in a group, or of a room alone: the same in every version. Two alerts have the same with a
/// probability of 1 in 100 billion, if 16,384 are known.
pub(super) fn number(place: &[&str], labels: &BTreeMap<String, String>) -> u64 {
    let mut digest = Sha256::new();
    let pairs = labels.iter().flat_map(|(key, value)| [key.as_str(), value.as_str()]);
    for text in place.iter().copied().chain(pairs) {
        digest.update((text.len() as u64).to_be_bytes());
        digest.update(text);
    }
    digest.finalize().iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// The text on one line, at most this many characters.
fn plain(text: &str, chars: usize) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let line = words.collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(chars) {
        Some((end, _)) => format!("{} …", &line[..end]),
        None => line,
    }
}

/// The text, at most this many bytes.
fn cut(mut text: String, bytes: usize) -> String {
    const MORE: &str = " …";
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes - MORE.len()));
        text.push_str(MORE);
    }
    text
}

#[cfg(test)]
mod tests;
