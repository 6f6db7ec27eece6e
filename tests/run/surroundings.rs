//! Whatever the caller's surroundings are like.

use fixtures::{need, run};

use crate::SITE;

fn shell(script: &str) -> fixtures::Outcome {
    let image = SITE.registry.name("busybox:1");
    let mut command = SITE.user.command(&SITE.sandbox, "bash");
    command.args(["-c", &script.replace("RUN", &format!("shifter run {image}"))]);
    run(command)
}

#[test]
fn streams_may_be_closed_or_pipes() {
    need!(root, registry, busybox, userns);
    SITE.busybox(&["true"]).success();
    assert_eq!(shell("RUN echo a >&- ; echo $?").stdout, "0\n");
    assert_eq!(shell("RUN true <&- >&- 2>&- ; echo $?").stdout, "0\n");
    assert_eq!(shell("RUN yes | head -n 2; echo ${PIPESTATUS[0]}").stdout, "y\ny\n141\n");
    assert_eq!(shell("trap '' CHLD; RUN sh -c 'exit 3'; echo $?").stdout, "3\n");
    let terminal = "trap '' CHLD; exec env --ignore-signal=CHLD shifter run -t";
    let image = SITE.registry.name("busybox:1");
    assert_eq!(shell(&format!("{terminal} {image} sh -c 'exit 3'")).code, 3);
    assert_eq!(shell("echo through | RUN cat | RUN tr a-z A-Z").success(), "THROUGH\n");
}

#[test]
fn a_working_directory_may_be_gone() {
    need!(root, registry, busybox, userns);
    let dir = SITE.sandbox.make_dir("gone", 0o777);
    let script = format!("mkdir -p {0}/in && cd {0}/in && rmdir {0}/in && RUN pwd", dir.display());
    assert_eq!(shell(&script).success(), "/\n");
    let script = format!("mkdir -p {0}/in && cd {0}/in && rmdir {0}/in && RUN", dir.display());
    let stderr = shell(&script.replace("RUN", "shifter run -v .:/x localhost:1/x")).failure(2);
    assert!(stderr.contains("the working directory is gone"), "{stderr}");
}

#[test]
fn an_environment_may_be_large() {
    need!(root, registry, busybox, userns);
    let script = "for i in $(seq 1500); do export V$i=$(printf %01000d $i); done; \
                  RUN sh -c 'echo ${#V1500}'";
    assert_eq!(shell(script).success(), "1000\n");
}
