use super::*;
use fixtures::need;

#[test]
fn a_mistake_is_told_once_a_node() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    for _ in 0..100 {
        let outcome =
            site.srun(&["-N1", "-n48", "--overcommit", &site.option(), "no-such-command"]);
        let said = own_lines(&outcome.stderr);
        if said.len() != 1 || outcome.code != 127 {
            eprintln!("BAD: {outcome}");
        }
    }
}
