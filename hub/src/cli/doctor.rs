//! `doctor`: asks devices what is wrong with them, and says what mends it.

use super::args::{DataFormat, DoctorArgs};
use super::client::Client;
use super::each::each;
use super::error::CliError;
use super::get::{clean, device_path, devices};
use super::human::count;
use super::output::{Out, Style};
use super::yaml;
use crate::api::types::{DeviceState, Finding, List, Verdict};
use serde::Serialize;

/// What one device said, or why it said nothing.
#[derive(Debug, Serialize)]
struct Examined {
    device: String,
    findings: Vec<Finding>,
    error: Option<String>,
}

/// Shows what each device found. Fails if something does not work on one, or
/// one does not answer, so that scripts can ask too.
pub(super) fn doctor(out: &mut Out, client: &Client, args: &DoctorArgs) -> Result<(), CliError> {
    let names = chosen(out, client, args)?;
    if names.is_empty() {
        return Ok(());
    }
    let what = format!("examining {}", count(names.len(), "device"));
    let ask = |device: &str| {
        let path = format!("{}/doctor", device_path(device));
        let findings = client.get::<List<Finding>>(&path);
        findings.map(|list| list.items).map_err(|e| e.to_string())
    };
    let answers = out.progress_while(&what, || each(&names, ask));
    let all: Vec<Examined> = answers
        .into_iter()
        .map(|(device, answer)| match answer {
            Ok(findings) => Examined {
                device,
                findings,
                error: None,
            },
            Err(error) => Examined {
                device,
                findings: Vec::new(),
                error: Some(error),
            },
        })
        .collect();
    match args.output {
        DataFormat::Text => out.print(&text(&all, out.colour))?,
        DataFormat::Json => {
            let value = data(&all);
            out.print(&format!("{value:#}\n"))?;
        }
        DataFormat::Yaml => out.print(&yaml::to_yaml(&data(&all)))?,
    }
    match all.iter().all(is_well) {
        true => Ok(()),
        false => Err(CliError::Exit(1)),
    }
}

/// The devices that are meant: the named ones, or those of a selector that are
/// online. Those of it that are not are said, and not asked.
fn chosen(out: &mut Out, client: &Client, args: &DoctorArgs) -> Result<Vec<String>, CliError> {
    let Some(selector) = &args.selector else {
        let plain = |name: &String| name.strip_prefix("device/").unwrap_or(name).to_string();
        return Ok(args.devices.iter().map(plain).collect());
    };
    let mut found = devices(client, Some(selector))?;
    found.retain(|d| !matches!(d.state, DeviceState::Revoked | DeviceState::Pending));
    let away = found.iter().filter(|d| d.state != DeviceState::Online);
    let away: Vec<&str> = away.map(|d| d.name.as_str()).collect();
    if !away.is_empty() {
        out.note(&format!("not online, not asked: {}", away.join(", ")));
    } else if found.is_empty() {
        out.note(&format!(
            "no device matches '{selector}'; see their labels with 'skerry get devices'"
        ));
    }
    let online = found.into_iter().filter(|d| d.state == DeviceState::Online);
    Ok(online.map(|d| d.name).collect())
}

fn is_well(examined: &Examined) -> bool {
    let bad = |f: &Finding| f.verdict == Verdict::Bad;
    examined.error.is_none() && !examined.findings.iter().any(bad)
}

fn data(all: &[Examined]) -> serde_json::Value {
    serde_json::to_value(List {
        items: all.iter().collect::<Vec<_>>(),
    })
    .unwrap_or_default()
}

/// One device in full; of several only their troubles, as the rest is of no
/// interest then.
fn text(all: &[Examined], colour: bool) -> String {
    let several = all.len() > 1;
    let mut out = String::new();
    for examined in all {
        let Examined {
            device,
            findings,
            error,
        } = examined;
        if several {
            let sum = match error {
                Some(_) => "no answer".to_string(),
                None => summary(findings),
            };
            out.push_str(&Style::Bold.paint(device, colour));
            out.push_str(&format!("  {sum}\n"));
        }
        if let Some(error) = error {
            out.push_str(&format!(
                "{}  {}\n",
                mark(Verdict::Bad, colour),
                clean(error)
            ));
        }
        for finding in findings {
            if several && matches!(finding.verdict, Verdict::Good | Verdict::Unknown) {
                continue;
            }
            let mark = mark(finding.verdict, colour);
            out.push_str(&format!("{mark}  {}\n", clean(&finding.text)));
            for line in finding.remedy.lines() {
                out.push_str(&format!("      -> {}\n", clean(line)));
            }
        }
    }
    out
}

/// As `skerry-agent doctor` has it.
fn mark(verdict: Verdict, colour: bool) -> String {
    let (text, style) = match verdict {
        Verdict::Good => ("ok  ", Style::Good),
        Verdict::Poor => ("warn", Style::Busy),
        Verdict::Bad => ("FAIL", Style::Bad),
        Verdict::Unknown => ("?   ", Style::Dim),
    };
    style.paint(text, colour)
}

fn summary(findings: &[Finding]) -> String {
    let of = |verdict| findings.iter().filter(|f| f.verdict == verdict).count();
    match (of(Verdict::Bad), of(Verdict::Poor)) {
        (0, 0) => "well".into(),
        (0, poor) => count(poor, "warning"),
        (bad, 0) => count(bad, "failure"),
        (bad, poor) => format!("{}, {}", count(bad, "failure"), count(poor, "warning")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examined(device: &str, verdicts: &[Verdict]) -> Examined {
        let finding = |verdict: &Verdict| Finding {
            kind: "Test".into(),
            verdict: *verdict,
            text: format!("it is {verdict:?}\x1b[2J").to_lowercase(),
            remedy: match verdict {
                Verdict::Good | Verdict::Unknown => String::new(),
                Verdict::Poor | Verdict::Bad => "mend it".into(),
            },
        };
        Examined {
            device: device.into(),
            findings: verdicts.iter().map(finding).collect(),
            error: None,
        }
    }

    #[test]
    fn one_device_is_told_whole_and_several_by_their_troubles() {
        let kiosk = examined("kiosk", &[Verdict::Good, Verdict::Poor, Verdict::Unknown]);
        assert!(is_well(&kiosk), "a warning is no failure");
        assert_eq!(
            text(std::slice::from_ref(&kiosk), false),
            "ok    it is good?[2j\nwarn  it is poor?[2j\n      -> mend it\n?     it is unknown?[2j\n"
        );
        let broken = examined("till", &[Verdict::Bad, Verdict::Good]);
        assert!(!is_well(&broken));
        let silent = Examined {
            error: Some("device 'x' did not answer within 45 s".into()),
            ..examined("x", &[])
        };
        assert!(!is_well(&silent));
        assert_eq!(
            text(&[kiosk, broken, silent], false),
            "kiosk  1 warning\nwarn  it is poor?[2j\n      -> mend it\n\
             till  1 failure\nFAIL  it is bad?[2j\n      -> mend it\n\
             x  no answer\nFAIL  device 'x' did not answer within 45 s\n"
        );
    }
}
