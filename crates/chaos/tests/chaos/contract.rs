//! Holds requests and answers against the OpenAPI document that the controller serves.

use std::collections::BTreeSet;
use std::sync::Mutex;

use serde_json::Value;

/// The methods that an OpenAPI path can have and a browser can send.
pub(crate) const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

pub(crate) struct Contract {
    document: Value,
    /// The operations that were answered with success, such as `GET /v1/runs`.
    succeeded: Mutex<BTreeSet<String>>,
}

impl Contract {
    pub(crate) fn new(document: &str) -> Self {
        Self { document: serde_json::from_str(document).unwrap(), succeeded: Mutex::default() }
    }

    /// Every path with each of [`METHODS`], and whether the document has that operation.
    pub(crate) fn operations(&self) -> Vec<(&str, &str, bool)> {
        let paths = self.document["paths"].as_object().unwrap();
        paths
            .iter()
            .flat_map(|(path, item)| {
                METHODS.map(|method| (method, path.as_str(), item.get(method.to_lowercase()).is_some()))
            })
            .collect()
    }

    /// The operations of the document that were never answered with success.
    pub(crate) fn never_succeeded(&self) -> Vec<String> {
        let succeeded = self.succeeded.lock().unwrap();
        let operations = self.operations().into_iter().filter(|(.., has)| *has);
        operations
            .map(|(method, path, _)| format!("{method} {path}"))
            .filter(|one| !succeeded.contains(one))
            .collect()
    }

    /// Checks an answer, and the request if it was accepted. Metrics and probes are no part of the API.
    pub(crate) fn check(
        &self,
        (method, path, request): (&str, &str, &str),
        (status, kind, body): (u16, &str, &str),
    ) {
        if !path.starts_with("/v1/") && path != "/openapi.json" {
            return;
        }
        let what = format!("{method} {path}: {status} {kind} {body}");
        let path = path.split('?').next().unwrap();
        let Some((template, operation)) = self.operation(method, path) else {
            assert!([404, 405].contains(&status), "not in the document: {what}");
            assert_eq!(kind, "application/problem+json", "{what}");
            self.validate(&serde_json::json!({"$ref": "#/components/schemas/Problem"}), body, &what);
            return;
        };
        let response = operation["responses"].get(status.to_string());
        let response = response.unwrap_or_else(|| panic!("this status is not in the document: {what}"));
        let schema = &response["content"][kind]["schema"];
        assert!(!schema.is_null(), "this content type is not in the document: {what}");
        if kind.ends_with("json") {
            self.validate(schema, body, &what);
        }
        if (200..300).contains(&status) {
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            match (schema.is_null(), request.is_empty()) {
                (true, true) => {}
                (false, false) => self.validate(schema, request, &what),
                _ => panic!("only one of the document and the request has a body: {what}"),
            }
            self.succeeded.lock().unwrap().insert(format!("{method} {template}"));
        }
    }

    /// Checks the data of an event.
    pub(crate) fn check_event(&self, data: &str) {
        let (_, operation) = self.operation("GET", "/v1/events").unwrap();
        let schema = &operation["responses"]["200"]["content"]["text/event-stream"]["schema"];
        assert!(!schema.is_null());
        self.validate(schema, data, data);
        self.succeeded.lock().unwrap().insert("GET /v1/events".to_owned());
    }

    /// The operation of a path, with the path as the document writes it. A path without parameters comes first.
    fn operation(&self, method: &str, path: &str) -> Option<(&str, &Value)> {
        let paths = self.document["paths"].as_object().unwrap();
        let template = paths
            .get_key_value(path)
            .or_else(|| paths.iter().find(|(template, _)| matches(template, path)))?;
        Some((template.0, template.1.get(method.to_lowercase())?))
    }

    fn validate(&self, schema: &Value, text: &str, what: &str) {
        let value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {what}"));
        if let Err(error) = validate(&self.document, schema, &value, "$") {
            panic!("{error}: {what}");
        }
    }
}

/// Whether the path is the template with its parameters filled in.
fn matches(template: &str, path: &str) -> bool {
    let (parts, filled) = (template.split('/'), path.split('/'));
    template.split('/').count() == path.split('/').count()
        && parts
            .zip(filled)
            .all(|(part, filled)| part == filled || part.starts_with('{') && !filled.is_empty())
}

/// Validates a value against a schema with the keywords that the document uses. Any other keyword is an error, so that none is
/// ignored. Stricter than JSON Schema: an object with `properties` has no others, because a client could not know of them.
fn validate(document: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let of = |name: &str| schema.get(name);
    for (keyword, argument) in schema.as_object().ok_or_else(|| format!("{at}: {schema} is no schema"))? {
        match keyword.as_str() {
            "description" | "example" | "format" | "default" => {}
            "$ref" => {
                let pointer = argument.as_str().and_then(|text| text.strip_prefix('#')).unwrap_or_default();
                let target =
                    document.pointer(pointer).ok_or_else(|| format!("{at}: no schema at {argument}"))?;
                validate(document, target, value, at)?;
            }
            "type" => {
                let name = match value {
                    Value::Null => "null",
                    Value::Bool(_) => "boolean",
                    Value::Number(number) if number.is_f64() => "number",
                    Value::Number(_) => "integer",
                    Value::String(_) => "string",
                    Value::Array(_) => "array",
                    Value::Object(_) => "object",
                };
                let allowed = argument == name
                    || argument.as_array().is_some_and(|names| names.iter().any(|one| one == name));
                if !allowed {
                    return Err(format!("{at}: {value} is not of type {argument}"));
                }
            }
            "enum" => {
                if !argument.as_array().is_some_and(|values| values.contains(value)) {
                    return Err(format!("{at}: {value} is not one of {argument}"));
                }
            }
            "minimum" => {
                if value.is_number() && value.as_f64() < argument.as_f64() {
                    return Err(format!("{at}: {value} is less than {argument}"));
                }
            }
            "oneOf" => {
                let alternatives = argument.as_array().into_iter().flatten();
                let fits = alternatives.filter(|one| validate(document, one, value, at).is_ok()).count();
                if fits != 1 {
                    return Err(format!("{at}: {value} fits {fits} of {argument}"));
                }
            }
            "items" => {
                for (number, item) in value.as_array().into_iter().flatten().enumerate() {
                    validate(document, argument, item, &format!("{at}[{number}]"))?;
                }
            }
            "required" => {
                let missing = |name: &&Value| name.as_str().is_none_or(|name| value.get(name).is_none());
                if let Some(name) = argument.as_array().into_iter().flatten().find(missing) {
                    return Err(format!("{at}: {name} is missing"));
                }
            }
            "properties" | "additionalProperties" => {
                for (name, one) in value.as_object().into_iter().flatten() {
                    let at = format!("{at}.{name}");
                    let schema = of("properties").and_then(|properties| properties.get(name));
                    let schema =
                        schema.or_else(|| of("additionalProperties").filter(|other| other.is_object()));
                    let schema = schema.ok_or_else(|| format!("{at} is not in the schema"))?;
                    validate(document, schema, one, &at)?;
                }
            }
            "propertyNames" => {
                for name in value.as_object().into_iter().flatten().map(|(name, _)| name) {
                    validate(document, argument, &Value::from(name.as_str()), at)?;
                }
            }
            other => return Err(format!("{at}: the keyword {other} is not checked")),
        }
    }
    Ok(())
}

#[test]
fn a_value_that_does_not_fit_its_schema_is_found() {
    use serde_json::json;
    let document = json!({"components": {"schemas": {"Name": {"type": "string", "enum": ["a", "b"]}}}});
    let name = json!({"$ref": "#/components/schemas/Name"});
    let schema = json!({
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": name,
            "count": {"type": ["integer", "null"], "minimum": 0},
            "list": {"type": "array", "items": {"oneOf": [{"type": "null"}, name]}},
            "map": {"type": "object", "additionalProperties": {"type": "integer"}}
        }
    });
    let fits = |value: Value| validate(&document, &schema, &value, "$");
    let good = json!({"name": "a", "count": null, "list": [null, "b"], "map": {"x": 1}});
    assert_eq!(fits(good), Ok(()));
    for wrong in [
        json!([]),
        json!({}),
        json!({"name": "c"}),
        json!({"name": "a", "other": 1}),
        json!({"name": "a", "count": "1"}),
        json!({"name": "a", "count": -1}),
        json!({"name": "a", "count": 1.5}),
        json!({"name": "a", "list": ["c"]}),
        json!({"name": "a", "map": {"x": "1"}}),
    ] {
        assert!(fits(wrong.clone()).is_err(), "{wrong}");
    }
    assert!(validate(&document, &json!({"maxLength": 1}), &json!("ab"), "$").is_err());
    assert!(matches("/v1/runs/{id}/stop", "/v1/runs/ab/stop"));
    assert!(!matches("/v1/runs/{id}", "/v1/runs/ab/stop") && !matches("/v1/runs/{id}", "/v1/runs/"));
}
