// SPDX-License-Identifier: MIT OR Apache-2.0
//! The calibrator sees the paper's baseline and nothing of what is to be predicted.

use microslice_sim::calibrate::{self, Fitted};
use microslice_sim::{Kind, Run, Scenario};
use std::path::{Path, PathBuf};

fn scenarios() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/scenarios")
}

/// Fits dedup, with short runs; every run that the calibrator asks for must be the baseline.
fn fit(folder: &Path) -> Fitted {
    let baselines = calibrate::baselines(folder).unwrap();
    let mut scenario = Scenario::read(folder, "dedup").unwrap();
    (scenario.warm_ms, scenario.measure_ms) = (20, 60);
    let execute = |runs: &[Run]| {
        for run in runs {
            let s = &run.sched;
            assert!(*s == microslice_sim::SchedSpec::new(Kind::Credit47, None), "{s:?}");
        }
        runs.iter().map(Run::execute).collect()
    };
    calibrate::calibrate(&scenario, &baselines["dedup"], 1..2, &execute).unwrap()
}

/// A copy of the scenarios with this in the place of the predictions.
fn copy(prediction: Option<&str>) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for sub in ["workloads", "paper"] {
        std::fs::create_dir(to.path().join(sub)).unwrap();
    }
    for file in ["dedup.yaml", "workloads/dedup.yaml", "workloads/swaptions.yaml", "paper/baseline.yaml"] {
        std::fs::copy(scenarios().join(file), to.path().join(file)).unwrap();
    }
    if let Some(text) = prediction {
        std::fs::write(to.path().join("paper/prediction.yaml"), text).unwrap();
    }
    to
}

#[test]
fn predictions_have_no_effect_on_what_is_fitted() {
    let real = fit(&scenarios());
    assert!(real.tried > 10 && real.errors.1 <= real.errors.0, "{real:?}");
    for other in [None, Some("dedup: {unit: time, static: [[9, 9]], dynamic: [9]}"), Some("}no YAML{")] {
        let folder = copy(other);
        let fitted = fit(folder.path());
        assert_eq!((fitted.params, fitted.targets), (real.params.clone(), real.targets.clone()), "{other:?}");
    }
}

#[test]
fn a_changed_baseline_has_an_effect() {
    let folder = copy(None);
    let path = folder.path().join("paper/baseline.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let changed = text.replacen("164578839", "1645788", 1);
    assert_ne!(text, changed);
    std::fs::write(&path, changed).unwrap();
    assert_ne!(fit(folder.path()).params, fit(&scenarios()).params);
}

#[test]
fn the_simulator_does_not_know_the_predictions() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = 0;
    for entry in std::fs::read_dir(src).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("prediction"), "{} names the predictions", path.display());
        files += 1;
    }
    assert!(files > 10);
    // Nor does the baseline's format take them.
    let text = std::fs::read_to_string(scenarios().join("paper/prediction.yaml")).unwrap();
    assert!(serde_yaml::from_str::<calibrate::Baselines>(&text).is_err());
}

#[test]
fn every_scenario_can_run_and_every_parameter_has_an_origin() {
    let mut seen = 0;
    for entry in std::fs::read_dir(scenarios()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "yaml") {
            continue;
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let scenario = Scenario::read(&scenarios(), &name).unwrap();
        for vm in &scenario.vms {
            assert!(!vm.workload.params.is_empty(), "{name}");
            for (p, param) in &vm.workload.params {
                let fits = param.fit.is_none_or(|[low, high]| (low..=high).contains(&param.value));
                assert!(fits, "{name}: {p} is out of its bounds");
                let known = ["paper", "estimate", "fitted", "lab", "chosen", "a unit", "unit"];
                assert!(known.iter().any(|k| param.origin.starts_with(k)), "{name}: {p} has no origin");
                assert_eq!(param.fit.is_some(), param.origin.starts_with("fitted"), "{name}: {p}");
            }
        }
        let mut run = scenario.run(microslice_sim::SchedSpec::paper(1), false, 1);
        (run.warm_ms, run.measure_ms) = (1, 5);
        assert!(run.execute().unwrap().steps > 0, "{name}");
        seen += 1;
    }
    assert!(seen >= 14, "{seen} scenarios");
}
