//! What is said of the command line is what it is: the README, help, completions and the manual.

use std::{collections::BTreeSet, fs, path::Path, sync::LazyLock};

use fixtures::{Place, Sandbox, place::list, run};

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| Sandbox::new().with_programs());

fn place(name: &str) -> Place {
    Place::new(&SANDBOX, name)
}

/// The verbs that `shifter --help` names.
fn verbs(place: &Place) -> BTreeSet<String> {
    let help = place.shifter(&["--help"]).success();
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    let verbs = lines.filter_map(|line| line.split_whitespace().next());
    verbs.filter(|verb| *verb != "help").map(str::to_owned).collect()
}

#[test]
fn the_readme_names_every_verb() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(readme).expect("the README");
    let lines = readme.lines().filter_map(|line| line.strip_prefix("    shifter "));
    let named: BTreeSet<_> = lines.filter_map(|line| line.split_whitespace().next()).collect();
    let verbs = verbs(&place("readme"));
    assert_eq!(named, verbs.iter().map(String::as_str).collect());
}

#[test]
fn every_verb_explains_itself() {
    let place = place("help");
    for verb in verbs(&place) {
        let help = place.shifter(&[&verb, "--help"]).success();
        assert!(help.contains(&format!("Usage: shifter {verb}")), "{help}");
        let wide = help.lines().find(|line| line.chars().count() > 100);
        assert_eq!(wide, None, "{verb}: it does not fit a terminal");
    }
}

#[test]
fn who_errs_is_told_what_was_meant() {
    let place = place("errs");
    for (args, says) in [
        (&["pul", "x"][..], "'pull'"),
        (&["pull", "--quite", "x"], "'--quiet'"),
        (&["run"], "<REF>"),
        (&["pull", "--to", "nodes", "x"], "'node'"),
        (&["run", "--bogus", "x"], "--bogus"),
    ] {
        let stderr = place.shifter(args).failure(2);
        assert!(stderr.contains(says), "{args:?}: no {says:?} in: {stderr}");
    }
}

#[test]
fn bash_completes_verbs_and_options() {
    let place = place("bash");
    let complete = |line: &str| {
        let script = "source <(shifter completion bash); COMP_WORDS=($1); \
                      [[ $1 = *' ' ]] && COMP_WORDS+=(''); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); \
                      _shifter shifter \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD - 1]}\"; \
                      echo \"${COMPREPLY[@]}\"";
        run(place.command("bash", &["-c", script, "bash", line])).success()
    };
    assert_eq!(complete("shifter pul").trim(), "pull");
    assert!(complete("shifter pull --q").contains("--quiet"));
    assert!(complete("shifter pull --to ").contains("node"));
    for shell in ["zsh", "fish"] {
        let text = place.shifter(&["completion", shell]).success();
        for verb in verbs(&place) {
            assert!(text.contains(&verb), "{shell} does not know {verb}");
        }
    }
}

#[test]
fn the_manual_has_a_page_for_every_verb() {
    let place = place("manual");
    let dir = place.store.with_file_name("man");
    place.shifter(&["manual", &dir.to_string_lossy()]).success();
    let mut pages: Vec<_> = verbs(&place).iter().map(|verb| format!("shifter-{verb}.1")).collect();
    pages.push("shifter.1".to_owned());
    pages.sort();
    assert_eq!(list(&dir), pages);
}
