//! The `report.json` of a run of `conclave-chaos`.

use std::collections::BTreeSet;

use serde_json::Value;

/// Found where the cluster did not recover within the time that its experiment gives it.
pub(super) const NOT_RECOVERED: &str = "recovered";

/// The properties that a report calls violated, and [`NOT_RECOVERED`].
pub(super) fn violations(report: &Value) -> BTreeSet<String> {
    let findings = report["report"]["findings"].as_array().map_or(&[][..], Vec::as_slice);
    let violated =
        findings.iter().filter(|finding| finding["violations"].as_u64().is_some_and(|count| count > 0));
    let mut found: BTreeSet<String> =
        violated.filter_map(|finding| finding["property"].as_str().map(str::to_owned)).collect();
    if report["facts"].as_object().is_some_and(|facts| facts.get("recovered") == Some(&Value::Null)) {
        found.insert(NOT_RECOVERED.to_owned());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_findings_of_a_report_are_its_violated_properties() {
        let findings = json!([
            {"property": "acked_kept", "checked": 9, "violations": 2},
            {"property": "no_gap", "checked": 9, "violations": 0},
        ]);
        let report = json!({"report": {"findings": findings}, "facts": {"recovered": null}});
        assert_eq!(violations(&report), names(&["acked_kept", NOT_RECOVERED]));
        let report = json!({"report": {"findings": findings}, "facts": {"recovered": "1s"}});
        assert_eq!(violations(&report), names(&["acked_kept"]));
        assert_eq!(violations(&Value::Null), names(&[]));
    }
}
