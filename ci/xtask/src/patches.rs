// SPDX-License-Identifier: GPL-3.0-only
//! Keeps `xen-patches` honest: it applies with zero fuzz and no moved hunk, comes out the same when regenerated from
//! git, and every patch builds alone.
//!
//! A patch file is exactly what `git format-patch` makes of its commit (options in [`FORMAT`]), so nobody edits one by
//! hand without noticing. Its number is kept as long as its subject is; new ones count on from the one before.

use crate::cache::{Cache, Key};
use crate::run;
use crate::rustlib::{self, Object};
use crate::series::{Patch, add_sections, for_hypervisor, for_tools};
use crate::source;
use crate::ui;
use crate::xen::{self, Inputs, Variant};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How a commit becomes a patch file.
const FORMAT: &[&str] = &[
    "format-patch",
    "--quiet",
    "--zero-commit",
    "--no-signature",
    "--no-stat",
    "--no-numbered",
    "--no-attach",
    "--no-thread",
    "--no-cover-letter",
    "--no-renames",
    "--subject-prefix=PATCH",
    "--suffix=.patch",
];
/// Settings of the user that would show in a patch.
const SETTINGS: &[(&str, &str)] = &[
    ("core.abbrev", "7"),
    ("core.autocrlf", "false"),
    ("diff.algorithm", "myers"),
    ("diff.context", "3"),
    ("diff.interHunkContext", "0"),
    ("diff.noprefix", "false"),
    ("diff.mnemonicPrefix", "false"),
    ("diff.indentHeuristic", "true"),
    ("diff.suppressBlankEmpty", "false"),
    ("format.signOff", "false"),
    ("format.useAutoBase", "false"),
    ("commit.gpgSign", "false"),
    ("gc.auto", "0"),
];

fn git(tree: &Path) -> Command {
    let mut cmd = Command::new("git");
    cmd.arg("-C").arg(tree);
    // In the environment, so that errors show the command and not the settings.
    cmd.env("GIT_CONFIG_COUNT", SETTINGS.len().to_string());
    for (i, (name, value)) in SETTINGS.iter().enumerate() {
        cmd.env(format!("GIT_CONFIG_KEY_{i}"), name).env(format!("GIT_CONFIG_VALUE_{i}"), value);
    }
    cmd.env("GIT_COMMITTER_NAME", "microslice").env("GIT_COMMITTER_EMAIL", "microslice@localhost");
    cmd.env_remove("GIT_DIR").env_remove("GIT_INDEX_FILE").env_remove("GIT_WORK_TREE");
    cmd
}

/// A repository with the unpatched source as its root commit and one commit for each patch, in the cache.
///
/// # Errors
/// If a patch does not apply.
fn repository(cache: &Cache, inputs: &Inputs) -> Result<PathBuf> {
    let tree = cache.dir("work/patches")?;
    let _ = fs::remove_dir_all(&tree);
    fs::create_dir_all(&tree).with_context(|| format!("creating {}", tree.display()))?;
    let step = ui::Step::new("patches: putting the unpatched source under git");
    inputs.source.unpack(cache, &tree)?;
    run::output(git(&tree).args(["init", "--quiet", "--initial-branch=series"]))?;
    // The source's own ignore files must not hide a file that a patch changes.
    run::output(git(&tree).args(["add", "--all", "--force"]))?;
    let author = ["-c", "user.name=microslice", "-c", "user.email=microslice@localhost"];
    run::output(git(&tree).args(author).args(["commit", "--quiet", "--message=base"]))?;
    step.done();
    Ok(tree)
}

fn commit(tree: &Path, patch: &Patch) -> Result<()> {
    let mut am = git(tree);
    am.args(["am", "--quiet", "--no-3way", "--keep-cr", "--committer-date-is-author-date"]).arg(&patch.path);
    let done = run::output(&mut am);
    if done.is_err() {
        let _ = run::output(git(tree).args(["am", "--abort"]));
    }
    done.map(drop).with_context(|| format!("committing {}", patch.path.display()))
}

/// Checks that the series applies and comes out the same.
///
/// # Errors
/// The first patch that does not apply or comes out differently.
pub fn check(cache: &Cache, inputs: &Inputs) -> Result<()> {
    let _lock = cache.lock("patches")?;
    let tree = repository(cache, inputs)?;
    let patches = &inputs.series.patches;
    let mut moved = Vec::new();
    for patch in patches {
        moved.extend(dry_run(&tree, patch)?);
        commit(&tree, patch)?;
    }
    ui::say(&format!(
        "patches: {} applied to Xen {} with zero fuzz",
        patches.len(),
        inputs.series.base.version()
    ));
    check_lab(&tree, &inputs.series.lab)?;
    let out = tempfile::tempdir()?;
    let names = regenerate(&tree, &old_names(patches), out.path())?;
    for (patch, name) in patches.iter().zip(&names) {
        let text =
            fs::read_to_string(out.path().join(name)).with_context(|| format!("reading the new {name}"))?;
        ensure!(
            *name == patch.name && text == patch.text,
            "{} is not what git makes of its commit{}; `cargo xtask patches refresh` writes it anew",
            patch.path.display(),
            if *name == patch.name { String::new() } else { format!(" (it would be named {name})") }
        );
    }
    ensure!(moved.is_empty(), "hunks apply at other lines than they say:\n  {}", moved.join("\n  "));
    ui::say("patches: regenerating them changes nothing");
    Ok(())
}

fn dry_run(tree: &Path, patch: &Patch) -> Result<Vec<String>> {
    let moved = source::apply(tree, std::slice::from_ref(patch))?;
    run::output(git(tree).args(["reset", "--quiet", "--hard"]))?;
    run::output(git(tree).args(["clean", "--quiet", "-d", "--force"]))?;
    Ok(moved)
}

fn check_lab(tree: &Path, lab: &[Patch]) -> Result<()> {
    source::apply(tree, lab)?;
    run::output(git(tree).args(["reset", "--quiet", "--hard"]))?;
    run::output(git(tree).args(["clean", "--quiet", "-d", "--force"]))?;
    ui::say(&format!("patches: {} of the lab apply on top", lab.len()));
    Ok(())
}

fn old_names(patches: &[Patch]) -> Vec<String> {
    patches.iter().map(|p| p.name.clone()).collect()
}

/// Writes the patches of `tree` from its root commit on to `out`; returns their names in order.
fn regenerate(tree: &Path, old: &[String], out: &Path) -> Result<Vec<String>> {
    let roots = run::output(git(tree).args(["rev-list", "--max-parents=0", "HEAD"]))?;
    let root = match roots.split_whitespace().collect::<Vec<_>>()[..] {
        [root] => root.to_owned(),
        _ => bail!("{} has more than one root commit: which one is unpatched Xen?", tree.display()),
    };
    let merges = run::output(git(tree).args(["rev-list", "--merges", "HEAD"]))?;
    ensure!(merges.trim().is_empty(), "{} has merges: a series is a line of commits", tree.display());
    let raw = tempfile::tempdir_in(out)?;
    let mut cmd = git(tree);
    cmd.args(FORMAT).arg("--output-directory").arg(raw.path()).arg(format!("{root}..HEAD"));
    run::output(&mut cmd)?;
    let mut made = fs::read_dir(raw.path())?.map(|i| Ok(i?.file_name().to_string_lossy().into_owned()));
    let mut made = made.by_ref().collect::<Result<Vec<String>>>()?;
    made.sort();
    let names = number(&made, old)?;
    for (from, to) in made.iter().zip(&names) {
        fs::rename(raw.path().join(from), out.join(to)).with_context(|| format!("writing {to}"))?;
    }
    Ok(names)
}

fn split(name: &str) -> Result<(u32, &str)> {
    let (number, slug) = name.split_once('-').with_context(|| format!("{name}: not NNNN-subject.patch"))?;
    Ok((number.parse().with_context(|| format!("{name}: not NNNN-subject.patch"))?, slug))
}

/// Gives each patch its old number, or the one after its predecessor's.
fn number(made: &[String], old: &[String]) -> Result<Vec<String>> {
    let old = old.iter().map(|n| split(n)).collect::<Result<Vec<_>>>()?;
    let mut last = 0;
    let mut names = Vec::new();
    for name in made {
        let (_, slug) = split(name)?;
        let kept = old.iter().find(|(n, s)| *s == slug && *n > last).map(|(n, _)| *n);
        last = kept.unwrap_or(last + 1);
        names.push(format!("{last:04}-{slug}"));
    }
    Ok(names)
}

/// Writes the series anew from the commits of `from` (default: from the series itself, which normalises it).
///
/// # Errors
/// If the series does not apply or `from` is no line of commits.
pub fn refresh(cache: &Cache, inputs: &Inputs, from: Option<&Path>) -> Result<()> {
    let _lock = cache.lock("patches")?;
    let tree = match from {
        Some(dir) => dir.canonicalize().with_context(|| format!("opening {}", dir.display()))?,
        None => {
            let tree = repository(cache, inputs)?;
            for patch in &inputs.series.patches {
                dry_run(&tree, patch)?;
                commit(&tree, patch)?;
            }
            tree
        }
    };
    let out = tempfile::tempdir_in(&inputs.series.dir)?;
    let names = regenerate(&tree, &old_names(&inputs.series.patches), out.path())?;
    ensure!(!names.is_empty(), "{} has no commit after its root", tree.display());
    for patch in inputs.series.patches.iter().filter(|p| !names.contains(&p.name)) {
        ui::say(&format!("patches: {} is gone", patch.name));
        fs::remove_file(&patch.path).with_context(|| format!("removing {}", patch.path.display()))?;
    }
    for name in &names {
        let (new, place) = (out.path().join(name), inputs.series.dir.join(name));
        if fs::read(&place).ok() != fs::read(&new).ok() {
            ui::say(&format!("patches: {name} is rewritten"));
            fs::rename(&new, &place).with_context(|| format!("writing {}", place.display()))?;
        }
    }
    let list = inputs.series.dir.join("series");
    let text = fs::read_to_string(&list).with_context(|| format!("reading {}", list.display()))?;
    fs::write(&list, series_text(&text, &names)).with_context(|| format!("writing {}", list.display()))
}

/// The series file with its comments kept and its names replaced.
fn series_text(old: &str, names: &[String]) -> String {
    let comments = old.lines().filter(|l| l.starts_with('#'));
    comments.chain(names.iter().map(String::as_str)).map(|l| format!("{l}\n")).collect()
}

/// A build of the first `patches` of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    patches: usize,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    With,
    Without,
    Tools,
}

/// The builds that show that every patch builds alone. Those of one kind follow each other: little differs between
/// neighbours, so little is built.
fn steps(patches: &[Patch]) -> Vec<Step> {
    let touched =
        |what| move |p: &Patch| if what == What::Tools { p.touches_tools() } else { p.touches_hypervisor() };
    let of = |what| {
        let hit = patches.iter().enumerate().filter(move |(_, p)| touched(what)(p));
        hit.map(move |(i, _)| Step { patches: i + 1, what })
    };
    [What::With, What::Without, What::Tools].into_iter().flat_map(of).collect()
}

/// Builds the hypervisor with and without the option, and the tools, after each patch that touches them. What the
/// cache knows to build is not built again; nothing is begun after `until` minutes.
///
/// # Errors
/// The first patch that does not build.
pub fn build_each(cache: &Cache, root: &Path, inputs: &Inputs, until: Option<u64>) -> Result<()> {
    let builder = Builder { cache, inputs, object: rustlib::build(cache, root)? };
    let steps = steps(&inputs.series.patches);
    let mut left = 0;
    for step in &steps {
        let key = builder.key(step)?;
        if cache.find("built", &key).is_some() {
            continue;
        }
        if until.is_some_and(|minutes| ui::elapsed().as_secs() >= minutes * 60) {
            left += 1;
            continue;
        }
        cache.entry("built", &key, |_| builder.build(step))?;
    }
    if left == 0 {
        ui::say(&format!("patches: every one builds alone ({} builds)", steps.len()));
    } else {
        ui::warn(&format!("patches: time is up, {left} of {} builds are left for the next run", steps.len()));
    }
    Ok(())
}

struct Builder<'a> {
    cache: &'a Cache,
    inputs: &'a Inputs,
    object: Object,
}

impl Builder<'_> {
    fn patches(&self, step: &Step) -> &[Patch] {
        &self.inputs.series.patches[..step.patches]
    }

    /// The object, if a patch so far links it.
    fn object(&self, step: &Step) -> Option<&Object> {
        let links = self.patches(step).iter().any(|p| p.text.contains("MICROSLICE_RS_OBJ"));
        (step.what == What::With && links).then_some(&self.object)
    }

    fn key(&self, step: &Step) -> Result<Key> {
        let key = Key::new("step 2").field(self.inputs.source.key()?.hex()).field(format!("{:?}", step.what));
        let wanted = if step.what == What::Tools { for_tools } else { for_hypervisor };
        let key = add_sections(key, self.patches(step), wanted);
        self.object(step).map_or(Ok(key.clone()), |object| rustlib::add_to(key, object))
    }

    fn build(&self, step: &Step) -> Result<()> {
        let patches = self.patches(step);
        let last = patches.last().map_or("nothing", |p| p.name.as_str());
        let staged = self.cache.scratch()?;
        self.inputs.source.unpack(self.cache, staged.path())?;
        source::apply(staged.path(), patches)?;
        let variant = Variant { microslice: step.what == What::With, lab: false };
        let work = if step.what == What::Tools { "work/tools" } else { variant.work() };
        let _lock = self.cache.lock(work)?;
        let place = self.cache.dir(work)?;
        source::lay(staged.path(), &place)?;
        let log = self.cache.log("patches");
        match step.what {
            What::Tools => xen::make_tools(&place, &format!("patches: {last} builds the tools"), &log),
            What::With | What::Without => {
                let with = if variant.microslice { "with" } else { "without" };
                let what = format!("patches: {last} builds {with} the option");
                // An option that no patch so far has added is no option.
                let has_option = patches.iter().any(|p| p.text.contains("\n+config SCHED_MICROSLICE\n"));
                let mut wanted = variant.config();
                wanted.retain(|line| has_option || !line.contains("SCHED_MICROSLICE"));
                xen::make_hypervisor(&place, &wanted, self.object(step), &what, &log)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|&s| s.to_owned()).collect()
    }

    #[test]
    fn numbers_stay_with_their_subjects() {
        let old = names(&["0001-a.patch", "0002-b.patch", "0010-t.patch"]);
        assert_eq!(number(&names(&["0001-a.patch", "0002-b.patch", "0003-t.patch"]), &old).unwrap(), old);
        let more =
            number(&names(&["0001-a.patch", "0002-n.patch", "0003-t.patch", "0004-u.patch"]), &old).unwrap();
        assert_eq!(more, ["0001-a.patch", "0002-n.patch", "0010-t.patch", "0011-u.patch"]);
    }

    #[test]
    fn every_patch_is_built_where_it_counts() {
        let patch = |file: &str| Patch {
            name: "n".into(),
            path: "n".into(),
            text: format!("diff --git a/{file} b/{file}\n--- a/{file}\n+++ b/{file}\n"),
        };
        let all = [
            patch("xen/include/public/domctl.h"),
            patch("xen/common/a.c"),
            patch("docs/a"),
            patch("tools/xl/a.c"),
        ];
        let got: Vec<(usize, What)> = steps(&all).iter().map(|s| (s.patches, s.what)).collect();
        let want = [
            (1, What::With),
            (2, What::With),
            (1, What::Without),
            (2, What::Without),
            (1, What::Tools),
            (4, What::Tools),
        ];
        assert_eq!(got, want);
    }

    #[test]
    fn a_series_keeps_its_comments() {
        assert_eq!(
            series_text("# SPDX\n0001-a.patch\n", &names(&["0002-b.patch"])),
            "# SPDX\n0002-b.patch\n"
        );
    }

    #[test]
    fn what_git_writes_is_applied_and_regenerated_to_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let run = |args: &[&str]| {
            run::output(git(&tree).args(["-c", "user.name=n", "-c", "user.email=e"]).args(args)).unwrap()
        };
        run(&["init", "--quiet"]);
        for (text, message) in [("1\n", "base"), ("2\n", "xen: two\n\nWhy."), ("3\n", "tools: three")] {
            fs::write(tree.join("f"), text).unwrap();
            run(&["add", "f"]);
            run(&["commit", "--quiet", "-m", message]);
        }
        let out = dir.path().join("out");
        fs::create_dir(&out).unwrap();
        let first = regenerate(&tree, &[], &out).unwrap();
        assert_eq!(first, ["0001-xen-two.patch", "0002-tools-three.patch"]);
        let text = fs::read_to_string(out.join(&first[0])).unwrap();
        run(&["reset", "--quiet", "--hard", "HEAD~2"]);
        for name in &first {
            let path = out.join(name);
            commit(&tree, &Patch { name: name.clone(), text: fs::read_to_string(&path).unwrap(), path })
                .unwrap();
        }
        let again = dir.path().join("again");
        fs::create_dir(&again).unwrap();
        regenerate(&tree, &first, &again).unwrap();
        assert_eq!(fs::read_to_string(again.join(&first[0])).unwrap(), text);
    }
}
