//! The words of the refusals are part of the API, so the documentation lists each of them, and whether
//! it uses up the request's number.

use conclave_core::Refusal;

#[test]
fn every_refusal_is_documented() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/api.md");
    let page = std::fs::read_to_string(page).unwrap();
    for code in 1.. {
        let refusal = Refusal::from_code(code, 0);
        let word = refusal.word();
        let row = page.lines().find(|line| line.starts_with(&format!("| `{word}` |")));
        match row {
            Some(row) => {
                let uses = row.split('|').nth(3).unwrap().trim();
                assert_eq!(uses == "yes", refusal.uses_number(), "{row}");
            }
            None => assert!(page.contains(&format!("`{word}`")), "{word} is missing"),
        }
        if matches!(refusal, Refusal::Other(_)) {
            break;
        }
    }
}
