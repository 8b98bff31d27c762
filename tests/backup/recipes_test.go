package backup

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kmsfs/tests/internal/lab"
)

// TestRecipes runs what the README tells people to run, on a vault under load: what comes of it is of one moment, also where
// rsync finds an older copy.
func TestRecipes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	live := b.mount(b.at("vault"))
	l := startLoad(t, live, 2)
	for _, r := range []struct {
		script  string
		needs   []string
		env     []string
		restore string // into copy, where the recipe does not
		rounds  int
	}{
		{"rsync.sh", []string{"rsync"}, []string{"DEST=" + b.at("copy")}, "", 3},
		{"tar.sh", []string{"bash"}, []string{"SEND=cat >" + b.at("vault.tar")}, `mkdir copy; tar -xf vault.tar -C copy`, 1},
		{"restic.sh", []string{"restic"}, []string{"RESTIC_REPOSITORY=" + b.at("restic"), "TARGET=" + b.at("restored")},
			b.recipe("restic-restore.sh") + `; mv restored/"$VAULT" copy; rm -r restored`, 1},
	} {
		t.Run(r.script, func(t *testing.T) {
			lab.Need(t, r.needs...)
			b := b.in(t)
			env := append(r.env, "VAULT="+b.at("vault"))
			if r.script == "restic.sh" {
				b.resticRepo()
			}
			for range r.rounds {
				began := time.Now()
				b.script(b.recipe(r.script), env...)
				during := span{began, time.Now()}
				if r.restore != "" {
					b.script("rm -rf copy; "+r.restore, env...)
				}
				b.checkMoment(l, b.at("copy"), during)
			}
			b.script("rm -r copy")
		})
	}
}

// checkMoment mounts a copy and holds that it is of one moment of the span.
func (b *bench) checkMoment(l *load, copy string, during span) {
	b.t.Helper()
	got := b.mount(copy, "--read-only")
	l.moment(b.t, "the copy", contents(b.t, got, nil), during)
	b.umount(got)
}

// TestSnapshotRecipe: the recipe that takes a snapshot of btrfs.
func TestSnapshotRecipe(t *testing.T) {
	t.Parallel()
	lab.Need(t, "rsync", "btrfs")
	b := benchIn(t, lab.Backing(t, "btrfs"))
	volume := filepath.Dir(b.dir)
	live := b.mount(b.at("vault"))
	l := startLoad(t, live, 2)
	dest := filepath.Join(lab.Dir(t), "copy")
	began := time.Now()
	b.script(b.recipe("snapshot.sh"), "SUBVOLUME="+volume, "VAULT="+filepath.Base(b.dir)+"/vault", "DEST="+dest)
	b.checkMoment(l, dest, span{began, time.Now()})
	if _, err := os.Stat(volume + "/.backup"); err == nil {
		t.Error("the snapshot is left")
	}
	l.end()
}

// TestSchedules: the units are right to systemd, and both they and the line of cron fail where damage is found.
func TestSchedules(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	live := b.mount(b.at("vault"))
	fill(t, filepath.Join(live, "file"), 100_000)
	b.umount(live)
	b.mkdir("bin")
	b.mkdir("units")
	if err := os.WriteFile(b.at("bin/restic"), []byte("#!/bin/sh\n"), 0o755); err != nil { // is tested with the recipe itself
		t.Fatal(err)
	}
	backup := b.recipe("restic.sh")
	read := func(name string) string {
		text, err := os.ReadFile("recipes/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(string(text), "/etc/kmsfs/restic.sh", backup)
	}

	t.Run("cron", func(t *testing.T) {
		b := b.in(t)
		env := []string{"VAULT=" + b.at("vault"), "PATH=" + b.at("bin") + ":" + filepath.Dir(b.program) + ":" + os.Getenv("PATH")}
		lines := strings.Split(strings.TrimSpace(read("cron")), "\n")
		_, command, ok := strings.Cut(lines[len(lines)-1], " root ")
		if !ok {
			t.Fatalf("no command in %q", lines)
		}
		b.script(command, env...)
		f, err := os.OpenFile(filepath.Join(b.at("vault"), largest(t, b.at("vault"))), os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt([]byte("damage"), 50_000)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		var exit *exec.ExitError
		if out, err := b.tryScript(command, env...); !errors.As(err, &exit) || exit.ExitCode() != 3 {
			t.Errorf("with damage: %v\n%s", err, out)
		}
	})
	t.Run("systemd", func(t *testing.T) {
		lab.Need(t, "systemd-analyze")
		b := b.in(t)
		for _, name := range []string{"kmsfs-backup.service", "kmsfs-backup.timer"} {
			text := strings.ReplaceAll(read(name), "ExecStart=kmsfs", "ExecStart="+b.program)
			if err := os.WriteFile(b.at("units/"+name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if out := b.script(`systemd-analyze verify units/* 2>&1`); out != "" {
			t.Error(out)
		}
	})
}
