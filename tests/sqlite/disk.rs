//! Disks that are full, cannot be written, or fail: an error in words, and nothing lost. Some are mounted for the test;
//! where this user may not mount, there is nothing to see.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use leveret::{Client, ErrorKind, PublishError};
use queue_core::broker::{ConsumeOptions, Health, Publish};
use queue_core::envelope::Envelope;
use queue_core::settlement::Settlement;
use queue_core::topology::{QueueDecl, Topology};
use rusqlite::Connection;

use crate::support::{Database, PATIENCE, Program, next, say, text, this_binary};

/// A job of 20 KB that begins with its number.
fn job(number: usize) -> Publish {
    Publish::to_queue("jobs", Envelope::new(format!("{number} {}", "x".repeat(20_000))))
}

fn number(payload: &str) -> usize {
    payload.split(' ').next().and_then(|number| number.parse().ok()).expect("a number")
}

/// Publishes until it is refused, and says how many were kept.
async fn publish_until_refused(client: &Client) -> (usize, PublishError) {
    client.declare(&Topology::new().queue(QueueDecl::new("jobs"))).await.unwrap();
    for kept in 0..1000 {
        if let Err(error) = client.broker().publish(job(kept)).await {
            return (kept, error);
        }
    }
    panic!("it takes everything");
}

async fn work_all(client: &Client, kept: usize) {
    let mut consumer = client.broker().consume(ConsumeOptions::new("jobs")).await.unwrap();
    for expected in 0..kept {
        let delivery = next(&mut consumer).await;
        assert_eq!(number(&text(&delivery)), expected);
        delivery.settle(Settlement::Ack).await.unwrap();
    }
}

#[tokio::test]
async fn full_disk_refuses_and_loses_nothing() {
    let Some(disk) = Disk::tmpfs("size=2m") else { return };
    let client = Client::builder().publish_timeout(Duration::from_millis(100));
    let client = client.connect(&disk.url()).await.unwrap();

    let (kept, refused) = publish_until_refused(&client).await;

    let words = refused.to_string();
    assert!(matches!(refused, PublishError::Blocked { .. }) && words.contains("is full"), "{words}");
    assert!(kept > 10, "only {kept} were kept");
    // What is there can be read, and when there is room again, it is worked.
    assert_eq!(client.admin().depth("jobs").await.unwrap().ready, kept as u64);
    disk.remount("size=64m");
    work_all(&client, kept).await;
    client.broker().publish(job(0)).await.unwrap();
    client.close().await;
}

/// Somebody else fills it, while a job runs.
#[tokio::test]
async fn finished_job_is_acked_when_there_is_room_again() {
    let Some(disk) = Disk::tmpfs("size=2m") else { return };
    let client = Client::connect(&disk.url()).await.unwrap();
    client.declare(&Topology::new().queue(QueueDecl::new("jobs"))).await.unwrap();
    client.broker().publish(job(0)).await.unwrap();
    let mut consumer = client.broker().consume(ConsumeOptions::new("jobs")).await.unwrap();
    let delivery = next(&mut consumer).await;
    let rest = disk.0.join("rest");
    let mut filling = std::fs::File::create(&rest).unwrap();
    while std::io::Write::write(&mut filling, &[0; 4096]).is_ok() {}

    let making_room = async {
        // Nothing signals a client's health.
        while !matches!(client.broker().info().health, Health::Blocked(_)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        std::fs::remove_file(&rest).unwrap();
        drop(filling);
    };
    let acking = async { tokio::join!(delivery.settle(Settlement::Ack), making_room) };
    let (settled, ()) = tokio::time::timeout(PATIENCE, acking).await.expect("it was full");

    settled.unwrap();
    assert_eq!(client.admin().depth("jobs").await.unwrap().unsettled, Some(0));
    client.close().await;
}

#[tokio::test]
async fn file_of_a_read_only_disk_is_refused() {
    let Some(disk) = Disk::tmpfs("size=8m") else { return };
    Client::connect(&disk.url()).await.unwrap().close().await;
    disk.remount("ro");

    let error = Client::connect(&disk.url()).await.expect_err("it cannot be written");

    assert_eq!(error.kind(), ErrorKind::Refused);
    let words = leveret::error_chain(&error);
    assert!(words.contains("write") && words.contains("its directory"), "{words}");
}

/// As root by a program that is not; otherwise by one that took the right from itself.
#[cfg(unix)]
#[tokio::test]
async fn file_without_the_right_to_write_is_refused() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::os::unix::process::CommandExt as _;

    let folder = folder("read-only");
    let path = folder.join("jobs.db");
    Client::connect(&format!("sqlite:{}", path.display())).await.unwrap().close().await;
    let permit = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    permit(&path, 0o444);
    permit(&folder, 0o555);

    let mut command = Command::new(this_binary());
    if std::fs::metadata(&path).unwrap().uid() == 0 {
        command.uid(65534);
    }
    let url = format!("sqlite:{}", path.display());
    let words = Program::start_by(command, "leave", &url).map(|program| program.rest());
    permit(&folder, 0o755);
    std::fs::remove_dir_all(&folder).unwrap();

    // Another user may not even reach this binary.
    let Ok(words) = words else { return eprintln!("left out: no other user may run this test") };
    let [words] = &words[..] else { panic!("{words:?}") };
    assert!(words.starts_with("Refused: ") && words.contains("read-only/jobs.db` cannot be"), "{words}");
    assert!(words.contains("its directory"), "{words}");
}

/// A program that publishes until it is refused.
pub(crate) async fn fill(client: Client) {
    let (kept, refused) = publish_until_refused(&client).await;
    let health = client.broker().info().health;
    assert!(matches!(health, Health::Down(_)), "{health:?}");
    say(&format!("{kept} {}", leveret::error_chain(&refused)));
}

/// A write that fails, though the disk is not full: as much as a limit of the system allows.
#[cfg(unix)]
#[tokio::test]
async fn write_that_fails_refuses_and_loses_nothing() {
    let database = Database::new();
    database.client("").await.close().await;
    let mut limited = Command::new("sh");
    // In units of 512 bytes. Ignored, the signal is an error of the write.
    limited.args(["-c", r#"trap "" XFSZ; ulimit -f 2000; exec "$0" "$@""#]).arg(this_binary());

    let program = Program::start_by(limited, "fill", &database.url("")).unwrap();
    let words = program.line();
    drop(program);

    let kept = number(&words);
    assert!(kept > 10, "{words}");
    assert!(words.contains("fails: see the system's log") && words.contains("ulimit -f"), "{words}");
    let client = database.client("").await;
    work_all(&client, kept).await;
    client.close().await;
}

/// A disk that takes what is written and then cannot keep it: its blocks lie in a tmpfs that has no room for them, so
/// that it is the sync which fails.
#[tokio::test]
async fn disk_that_fails_to_sync_confirms_nothing_that_it_loses() {
    let Some(blocks) = Disk::tmpfs("size=6m") else { return };
    let image = blocks.0.join("image");
    std::fs::File::create(&image).and_then(|file| file.set_len(64 << 20)).unwrap();
    if !succeeds(Command::new("mkfs.ext4").args(["-q", "-F", "-J", "size=1", "-b", "1024"]).arg(&image)) {
        return eprintln!("left out: there is no mkfs.ext4");
    }
    let Some(disk) = Disk::image(&image) else { return };
    let client = Client::connect(&disk.url()).await.unwrap();

    let (kept, refused) = publish_until_refused(&client).await;
    let mut confirmed: Vec<usize> = (0..kept).collect();
    for number in kept + 1..kept + 20 {
        if client.broker().publish(job(number)).await.is_ok() {
            confirmed.push(number);
        }
    }

    let words = leveret::error_chain(&refused);
    let is_unavailable = matches!(refused, PublishError::Unavailable { .. });
    assert!(is_unavailable || matches!(refused, PublishError::Unconfirmed { .. }), "{words}");
    assert!(kept > 10, "only {kept} were kept");
    drop(client);
    // As after a power failure: only what is in the blocks is left.
    disk.unmount();
    blocks.remount("size=128m");
    assert!(disk.mount_image(&image));
    let client = Client::connect(&disk.url()).await.unwrap();
    let file = Connection::open(disk.0.join("jobs.db")).unwrap();
    let mut select = file.prepare("SELECT payload FROM leveret_job").unwrap();
    let found = select.query_map([], |row| row.get::<_, String>(0)).unwrap();
    let found: HashSet<usize> = found.map(|payload| number(&payload.unwrap())).collect();
    confirmed.retain(|number| !found.contains(number));
    assert_eq!(confirmed, [0; 0], "lost, after `{words}`");
    client.close().await;
}

fn folder(name: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("disk-{process}-{count}-{name}"));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// A small disk, mounted on a folder of its own and unmounted with the value.
struct Disk(PathBuf);

impl Disk {
    fn tmpfs(options: &str) -> Option<Self> {
        let disk = Self(folder("tmpfs"));
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "leveret-test"]).arg(&disk.0);
        disk.or_left_out(succeeds(&mut mount))
    }

    fn image(image: &Path) -> Option<Self> {
        let disk = Self(folder("image"));
        let is_mounted = disk.mount_image(image);
        disk.or_left_out(is_mounted)
    }

    fn or_left_out(self, is_mounted: bool) -> Option<Self> {
        if !is_mounted {
            eprintln!("left out: this user may not mount a disk to fill");
        }
        is_mounted.then_some(self)
    }

    fn mount_image(&self, image: &Path) -> bool {
        succeeds(Command::new("mount").args(["-o", "loop"]).args([image, &*self.0]))
    }

    fn remount(&self, options: &str) {
        assert!(succeeds(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0)));
    }

    fn unmount(&self) {
        assert!(succeeds(Command::new("umount").arg(&self.0)));
    }

    fn url(&self) -> String {
        format!("sqlite:{}/jobs.db", self.0.display())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        succeeds(Command::new("umount").arg(&self.0));
        let _ = std::fs::remove_dir(&self.0);
    }
}
