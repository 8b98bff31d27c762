// Command backupload does the work of a backup in several ways, in turn in one run, and prints the medians and their ratios as
// Markdown tables: getting a plain tree out encrypted (kmsfs sync, export, import and a reverse mount, beside tar alone, tar with age,
// and tar over gocryptfs -reverse), and going through a stored vault (kmsfs verify and manifest, beside cat and b3sum).
//
//	go run ./tests/backupload --kmsfs ./kmsfs --rounds 3
//
// It needs root, to drop the page cache before each and to mount. What is not installed is left out: apt-get install age b3sum
// gocryptfs. It works below --dir and takes away what it made.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// config is what the flags say.
type config struct {
	dir, kmsfs string
	rounds     int
	files, mib int
	only       string
}

// job is one way to do a work; before and after are not measured. In them DIR is the working directory, KMSFS the program, and
// OUT a directory that is empty before.
type job struct {
	name                   string
	needs                  string // program
	before, command, after string
}

// work is what is done in several ways; the first job is the base of the ratios.
type work struct {
	name string
	jobs []job
}

func works() []work {
	mount := `mkdir OUT/m && gocryptfs -q -reverse -passfile DIR/pass SRC OUT/m`
	return []work{
		{"backup", []job{
			{"tar", "tar", "", `tar -C SRC -cf OUT/a .`, ""},
			{"tar \\| age", "age", "", `tar -C SRC -cf - . | age -r "$(age-keygen -y DIR/age.key)" > OUT/a`, ""},
			{"gocryptfs -reverse, tar", "gocryptfs", mount, `tar -C OUT/m -cf OUT/a .`, `fusermount3 -u OUT/m`},
			{"kmsfs mount --reverse, tar", "tar", `mkdir OUT/m && KMSFS mount --reverse --state DIR/state SRC OUT/m`, `tar -C OUT/m -cf OUT/a .`, `KMSFS umount OUT/m`},
			{"kmsfs sync into an empty vault", "tar", `KMSFS init --key-store DIR/keys OUT/v`, `KMSFS sync SRC OUT/v`, ""},
			{"kmsfs sync, nothing to do", "tar", "", `KMSFS sync SRC VAULT`, ""},
			{"kmsfs export", "tar", "", `KMSFS export VAULT > OUT/a`, ""},
			{"kmsfs import", "tar", `KMSFS init --key-store DIR/keys OUT/v; tar -C SRC -cf DIR/src.tar .`, `KMSFS import OUT/v < DIR/src.tar`, ""},
		}},
		{"check", []job{
			{"cat", "cat", "", `find VAULT -type f -print0 | xargs -0 cat > /dev/null`, ""},
			{"b3sum", "b3sum", "", `find VAULT -type f -print0 | xargs -0 b3sum > /dev/null`, ""},
			{"kmsfs verify --no-keys", "cat", "", `KMSFS verify --no-keys VAULT`, ""},
			{"kmsfs verify", "cat", "", `KMSFS verify VAULT`, ""},
			{"kmsfs manifest", "cat", "", `KMSFS manifest --output OUT/m VAULT`, ""},
		}},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var c config
	flag.StringVar(&c.dir, "dir", os.TempDir(), "where to work")
	flag.StringVar(&c.kmsfs, "kmsfs", "", "the kmsfs to measure (default: built from the module in the working directory)")
	flag.IntVar(&c.rounds, "rounds", 3, "how often to do everything; medians are shown")
	flag.IntVar(&c.files, "files", 10000, "how many small files, of 0 to 16 KiB")
	flag.IntVar(&c.mib, "size", 4096, "size of the large file in MiB")
	flag.StringVar(&c.only, "only", "", "backup or check, small or large, by commas")
	flag.Parse()
	if err := run(ctx, c); err != nil {
		fmt.Fprintln(os.Stderr, "backupload: error:", err)
		os.Exit(1)
	}
}

// run measures small and large.
func run(ctx context.Context, c config) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("needs root, to drop caches and to mount")
	}
	dir, err := os.MkdirTemp(c.dir, "backupload-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if c.kmsfs == "" {
		c.kmsfs = filepath.Join(dir, "kmsfs")
		if out, err := exec.CommandContext(ctx, "go", "build", "-o", c.kmsfs, "./cmd/kmsfs").CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	if c.kmsfs, err = filepath.Abs(c.kmsfs); err != nil {
		return err
	}
	b := &bench{c, dir}
	if err := b.sh(ctx, "", `echo password > DIR/pass; ! command -v age-keygen || age-keygen -o DIR/age.key 2> /dev/null`); err != nil {
		return err
	}
	for _, tree := range []string{"small", "large"} {
		if !b.chosen("small", "large", tree) {
			continue
		}
		if err := b.make(ctx, tree); err != nil {
			return err
		}
		for _, w := range works() {
			if b.chosen("backup", "check", w.name) {
				if err := b.work(ctx, w, tree); err != nil {
					return err
				}
			}
		}
		if err := b.sh(ctx, tree, `! command -v gocryptfs || rm -f SRC/.gocryptfs.reverse.conf; rm -rf SRC VAULT DIR/state DIR/src.tar`); err != nil {
			return err
		}
	}
	return nil
}

// bench is one run.
type bench struct {
	c   config
	dir string
}

// chosen says whether --only names what, or neither a nor b.
func (b *bench) chosen(x, y, what string) bool {
	only := strings.Split(b.c.only, ",")
	return slices.Contains(only, what) || !slices.Contains(only, x) && !slices.Contains(only, y)
}

// sh runs a command line.
func (b *bench) sh(ctx context.Context, tree, line string) error {
	r := strings.NewReplacer("DIR", b.dir, "KMSFS", b.c.kmsfs, "OUT", b.dir+"/out", "SRC", b.dir+"/"+tree, "VAULT", b.dir+"/v-"+tree)
	cmd := exec.CommandContext(ctx, "bash", "-e", "-o", "pipefail", "-c", r.Replace(line))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, out)
	}
	return nil
}

// make makes the tree, a vault of it, and what the others need.
func (b *bench) make(ctx context.Context, tree string) error {
	r := rand.New(rand.NewPCG(1, 2))
	src := filepath.Join(b.dir, tree)
	if err := os.Mkdir(src, 0o755); err != nil {
		return err
	}
	if tree == "large" {
		if err := b.sh(ctx, tree, fmt.Sprintf(`head -c %dM /dev/urandom > SRC/file`, b.c.mib)); err != nil {
			return err
		}
	} else {
		for i := range b.c.files {
			dir := filepath.Join(src, fmt.Sprintf("dir%d", i/100))
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			data := make([]byte, r.IntN(16<<10))
			for j := range data {
				data[j] = byte(r.Uint32())
			}
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file%d", i)), data, 0o644); err != nil {
				return err
			}
		}
	}
	return b.sh(ctx, tree, `KMSFS init --key-store DIR/keys VAULT; KMSFS sync SRC VAULT;
		mkdir DIR/m; KMSFS mount --reverse --init --key-store DIR/keys --state DIR/state SRC DIR/m; ls -R DIR/m > /dev/null; KMSFS umount DIR/m; rmdir DIR/m
		! command -v gocryptfs > /dev/null || gocryptfs -q -init -reverse -passfile DIR/pass SRC`)
}

// work does all jobs of a work in turn, and prints their table.
func (b *bench) work(ctx context.Context, w work, tree string) error {
	times := map[string][]time.Duration{}
	for range b.c.rounds {
		for _, j := range w.jobs {
			if _, err := exec.LookPath(j.needs); err != nil {
				continue
			}
			d, err := b.job(ctx, j, tree)
			if err != nil {
				return err
			}
			times[j.name] = append(times[j.name], d)
		}
	}
	what := fmt.Sprintf("%d small files", b.c.files)
	if tree == "large" {
		what = fmt.Sprintf("one file of %d MiB", b.c.mib)
	}
	fmt.Printf("\n| %s, %s | median | ratio |\n|---|---|---|\n", w.name, what)
	base := median(times[w.jobs[0].name])
	for _, j := range w.jobs {
		if t := times[j.name]; len(t) > 0 {
			fmt.Printf("| %s | %.2f s | %.2f |\n", j.name, median(t).Seconds(), median(t).Seconds()/base.Seconds())
		}
	}
	return nil
}

// job does one job, with nothing cached, and measures it.
func (b *bench) job(ctx context.Context, j job, tree string) (d time.Duration, err error) {
	if err := b.sh(ctx, tree, `mkdir OUT`); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir+"/out")) }()
	if err := b.sh(ctx, tree, j.before); err != nil {
		return 0, err
	}
	if err := b.sh(ctx, tree, `sync; echo 3 > /proc/sys/vm/drop_caches`); err != nil {
		return 0, err
	}
	began := time.Now()
	err = b.sh(ctx, tree, j.command)
	d = time.Since(began)
	return d, errors.Join(err, b.sh(context.WithoutCancel(ctx), tree, j.after))
}

func median(d []time.Duration) time.Duration {
	d = slices.Clone(d)
	slices.Sort(d)
	return d[len(d)/2]
}
