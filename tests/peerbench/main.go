// Command peerbench does the same work on a plain directory, on go-fuse's loopback (with its defaults, and with
// WRITEBACK_CACHE and HANDLE_KILLPRIV_V2), on kmsfs and on gocryptfs, in turn in one run, and prints the medians and
// their ratios to the plain directory as a Markdown table.
//
//	go run ./tests/peerbench --dir /var/tmp/bench --rounds 5
//
// It needs root, to drop the page cache before the cold operations; git and sqlite3 for theirs; gocryptfs if it is to
// be measured. It makes the mounts below --dir by itself and takes them away again.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// config is what the flags say.
type config struct {
	dir, src, kmsfs string
	json            string
	rounds, size    int
	only, targets   []string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c, err := parse()
	if err == nil {
		err = run(ctx, c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "peerbench: error:", err)
		os.Exit(1)
	}
}

func parse() (config, error) {
	var c config
	var only, targets string
	flag.StringVar(&c.dir, "dir", "", "where to work; removed afterwards if it was not there (default: a new temporary directory)")
	flag.IntVar(&c.rounds, "rounds", 3, "how often to do everything; medians are shown")
	flag.IntVar(&c.size, "size", 128, "size of the large files in MiB")
	flag.StringVar(&only, "only", "", "operations to do, by commas; those that they build on must be among them")
	flag.StringVar(&targets, "targets", strings.Join(targetNames(), ","), "what to measure; the first is the base of the ratios")
	flag.StringVar(&c.json, "json", "", "write all measurements to this file")
	flag.StringVar(&c.src, "src", "", "the tree to unpack, copy and read (default: GOROOT/src/cmd/compile)")
	flag.StringVar(&c.kmsfs, "kmsfs", "", "the kmsfs to measure (default: built from the module in the working directory)")
	flag.Parse()
	c.only, c.targets = split(only), split(targets)
	if len(c.only) == 0 {
		c.only = names(operations())
	}
	for _, o := range c.only {
		if !slices.Contains(names(operations()), o) {
			return c, fmt.Errorf("no operation %q; there are %s", o, strings.Join(names(operations()), ", "))
		}
	}
	if c.src == "" {
		root, err := exec.Command("go", "env", "GOROOT").Output()
		if err != nil {
			return c, fmt.Errorf("go env GOROOT: %w; say --src", err)
		}
		c.src = filepath.Join(strings.TrimSpace(string(root)), "src/cmd/compile")
	}
	if os.Geteuid() != 0 {
		return c, errors.New("needs root, to drop caches and to mount")
	}
	return c, nil
}

func split(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

// run sets up, measures, reports and takes down.
func run(ctx context.Context, c config) (err error) {
	cleanUp, err := workDir(&c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cleanUp()) }()
	var ts []*target
	defer func() {
		for _, t := range ts {
			err = errors.Join(err, t.stop())
		}
	}()
	for _, name := range c.targets {
		t, err := start(ctx, c, name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if t == nil {
			fmt.Fprintf(os.Stderr, "peerbench: %s is left out: not installed\n", name)
			continue
		}
		ts = append(ts, t)
	}
	r, err := measure(ctx, c, ts)
	if err != nil {
		return err
	}
	fmt.Print(r.markdown())
	if c.json != "" {
		return r.writeJSON(c.json)
	}
	return nil
}

// workDir makes c.dir where it is not, and returns how to remove what was made.
func workDir(c *config) (func() error, error) {
	var err error
	if c.dir == "" {
		if c.dir, err = os.MkdirTemp("", "peerbench-"); err != nil {
			return nil, err
		}
		return func() error { return os.RemoveAll(c.dir) }, nil
	}
	if c.dir, err = filepath.Abs(c.dir); err != nil {
		return nil, err
	}
	if err := os.Mkdir(c.dir, 0o755); err == nil {
		return func() error { return os.RemoveAll(c.dir) }, nil
	} else if !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	sub, err := os.MkdirTemp(c.dir, "peerbench-")
	c.dir = sub
	return func() error { return os.RemoveAll(sub) }, err
}
