//! A panic in any hook is told, and ends nothing but what asked for a container.

use super::*;

const NOT_STARTED: &str = "the plugin could not start: internal error: \
                           fault in init, as plugstack.conf asks (tell the administrator)";

#[test]
fn a_panic_is_nothing_to_a_job_without_a_container() {
    for fault in ["init", "post_opt", "task_init"] {
        let fault = format!("plugstack=fault={fault}");
        let none = "SLURM_SPANK_SHIFTER_REQUEST=none\n";
        let words = ["context=local", &fault, "init", "init_post_opt"];
        let client = Host::new(Slurm::New, &words).faults();
        let text = client.run();
        assert!(text.ends_with(&format!("init: 0\ninit_post_opt: 0\n{none}")), "{text}");
        let words = [&fault, "context=remote", "init", "init_post_opt", "arg=./app", "task_init"];
        let node = Host::new(Slurm::New, &words).faults();
        prints(node, "init: 0\ninit_post_opt: 0\ntask_init: 0\ntask argv: ./app\n");
    }
}

#[test]
fn a_panic_in_the_client_refuses_the_job() {
    let client = |fault: &str| {
        let fault = format!("plugstack=fault={fault}");
        let words = ["context=local", &fault, "init", "builtin=alpine", "init_post_opt"];
        Host::new(Slurm::New, &words).faults()
    };
    let why = "internal error: fault in post_opt, as plugstack.conf asks";
    is_refused(client("post_opt"), why);
    is_refused(client("init"), NOT_STARTED);
}

#[test]
fn a_panic_in_a_job_with_a_container_refuses_its_steps() {
    let words = ["context=local", "plugstack=fault=init", "init", "init_post_opt"];
    is_refused(
        Host::new(Slurm::New, &words)
            .faults()
            .env("SLURM_JOB_ID", "7")
            .env("SLURM_SPANK_SHIFTER_REQUEST", r#"{"container":"alpine:3"}"#),
        NOT_STARTED,
    );
}

#[test]
fn a_panic_on_the_node_ends_the_task() {
    ends(
        Host::task(Slurm::New, &[ALPINE, LAUNCHER, "plugstack=fault=task_init", "task=1"]).faults(),
        "shifter: n17: internal error: fault in task_init, as plugstack.conf asks\n",
    );
}

#[test]
fn the_plugin_for_sites_knows_no_faults() {
    let host = Host::client(&["plugstack=fault=post_opt", "builtin=alpine"]);
    assert!(host.run().contains("unknown argument \"fault=post_opt\""), "faults are built in");
}
