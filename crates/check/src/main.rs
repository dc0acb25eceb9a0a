//! `conclave-check FILE`: reads a recorded history and reports whether conclave kept its promises.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use conclave_check::{Options, Outcome, Property, Records, Report, check};

const USAGE: &str = "\
Usage: conclave-check [OPTIONS] FILE

Judges a history of JSON lines, as tests and conclave-chaos record it. The documentation of this crate describes the lines.
FILE may be - for standard input.

Options:
  --json            print the verdict as one JSON object
  --others          other clients, which are not recorded, use the same rooms
  --require LIST    properties that must have been tested: names separated by commas, or `all` for those that need
                    neither a partition nor a private room (default: all but resume_exact, reads_fresh and replicas_agree)
  --min-acked N     the fewest acked sends (default 1)
  -h, --help        print this

Exit codes: 0 passed, 1 a property is broken, 2 tested too little, 3 the history cannot be read";

struct Arguments {
    file: PathBuf,
    json: bool,
    options: Options,
}

fn main() -> ExitCode {
    let arguments = match arguments(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => return print_and_exit(&mut io::stdout(), USAGE, ExitCode::SUCCESS),
        Err(why) => {
            return print_and_exit(
                &mut io::stderr(),
                &format!("conclave-check: {why}\n\n{USAGE}"),
                ExitCode::from(3),
            );
        }
    };
    let records = match read(&arguments.file) {
        Ok(records) => records,
        Err(why) => {
            let why = format!("conclave-check: {}: {why}", arguments.file.display());
            return print_and_exit(&mut io::stderr(), &why, ExitCode::from(3));
        }
    };
    let report = check(&records, &arguments.options);
    let text = if arguments.json {
        serde_json::to_string(&report).unwrap_or_else(|why| format!("{{\"error\":{:?}}}", why.to_string()))
    } else {
        format!("{report}{}", quoted(&report, &arguments.file))
    };
    let code = match report.outcome {
        Outcome::Passed => ExitCode::SUCCESS,
        Outcome::Violated => ExitCode::from(1),
        Outcome::TooLittle => ExitCode::from(2),
    };
    print_and_exit(&mut io::stdout(), &text, code)
}

fn print_and_exit(out: &mut impl Write, text: &str, code: ExitCode) -> ExitCode {
    // A closed pipe is no error: the exit code still tells the outcome.
    let _ = writeln!(out, "{text}");
    code
}

fn arguments(mut words: impl Iterator<Item = String>) -> Result<Option<Arguments>, String> {
    let (mut file, mut json, mut options) = (None, false, Options::default());
    while let Some(word) = words.next() {
        match word.as_str() {
            "-h" | "--help" => return Ok(None),
            "--json" => json = true,
            "--others" => options.others = true,
            "--require" => options.required = properties(&words.next().unwrap_or_default())?,
            "--min-acked" => {
                let number = words.next().unwrap_or_default();
                options.acked_min =
                    number.parse().map_err(|_| format!("--min-acked needs a number, not {number:?}"))?;
            }
            flag if flag.len() > 1 && flag.starts_with('-') => return Err(format!("unknown option {flag}")),
            _ if file.is_some() => return Err("give one FILE only".to_owned()),
            _ => file = Some(PathBuf::from(word)),
        }
    }
    let file = file.ok_or_else(|| "FILE is missing".to_owned())?;
    Ok(Some(Arguments { file, json, options }))
}

fn properties(list: &str) -> Result<Vec<Property>, String> {
    if list == "all" {
        return Ok(Property::ALL.to_vec());
    }
    let named = |name| Property::named(name).ok_or_else(|| format!("there is no property {name:?}"));
    list.split(',').filter(|name| !name.is_empty()).map(named).collect()
}

fn read(file: &Path) -> Result<Records, String> {
    if file == Path::new("-") {
        return Records::read(io::stdin().lock()).map_err(|why| why.to_string());
    }
    let open = File::open(file).map_err(|why| why.to_string())?;
    Records::read(BufReader::with_capacity(1 << 20, open)).map_err(|why| why.to_string())
}

/// The lines of the witnesses, quoted from the file.
fn quoted(report: &Report, file: &Path) -> String {
    let witnesses = report.findings.iter().filter_map(|finding| finding.witness.as_ref());
    let mut wanted: Vec<u64> = witnesses.flat_map(|witness| witness.lines.iter().copied()).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let Ok(open) = File::open(file) else { return String::new() };
    let mut text = String::new();
    for (number, line) in (1..).zip(BufReader::new(open).lines()) {
        match line {
            Ok(line) if wanted.binary_search(&number).is_ok() => {
                text.push_str(&format!("\n{number:>8}: {line}"))
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    text
}
