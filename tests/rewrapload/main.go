// Command rewrapload measures kmsfs rewrap: on generated vaults of 10^3 to 10^6 keys with the local key store, and on one
// whose KMS takes its time for each call.
//
//	go build -o kmsfs ./cmd/kmsfs && go run ./tests/rewrapload --kmsfs ./kmsfs --svg rewrap.svg
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/sidecar"
	"kmsfs/keysource"
	"kmsfs/keysource/awskms/awskmstest"
	"kmsfs/keysource/local"
)

// options are the flags.
type options struct {
	program     string
	dir         string
	counts      []int
	svg         string
	latency     time.Duration
	latencyKeys int
	concurrency int
}

func main() {
	var o options
	var counts string
	flag.StringVar(&o.program, "kmsfs", "./kmsfs", "the `program`")
	flag.StringVar(&o.dir, "dir", "", "`directory` for the vaults (default: a temporary one)")
	flag.StringVar(&counts, "keys", "1000,10000,100000,1000000", "how many keys the vaults have, a `list`")
	flag.StringVar(&o.svg, "svg", "", "write a plot of time against keys to `file`")
	flag.DurationVar(&o.latency, "latency", 10*time.Millisecond, "of each call of the KMS; 0: without that part")
	flag.IntVar(&o.latencyKeys, "latency-keys", 20000, "how many keys the vault of the slow KMS has")
	flag.IntVar(&o.concurrency, "concurrency", 64, "calls at once of the slow KMS")
	flag.Parse()
	for s := range strings.SplitSeq(counts, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			fmt.Fprintf(os.Stderr, "rewrapload: --keys: %q is not a number\n", s)
			os.Exit(2)
		}
		o.counts = append(o.counts, n)
	}
	if err := run(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, "rewrapload:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	program, err := filepath.Abs(o.program)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.dir, "rewrapload")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{program: program, dir: dir}
	if b.store, err = local.Create(ctx, local.Config{Dir: filepath.Join(dir, "keys")}); err != nil {
		return err
	}
	defer b.store.Close()
	if b.key, err = b.store.CreateKey(ctx, keysource.CreateKeyInput{}); err != nil {
		return err
	}
	if err := b.store.CreateAlias(ctx, alias, keysource.KeyRef(b.key.KeyID)); err != nil {
		return err
	}
	cores := float64(runtime.NumCPU())
	fmt.Printf("%10s %12s %12s %16s %14s %14s %12s\n", "keys", "make s", "rewrap s", "keys/s and core", "again s", "dry run s", "memory MiB")
	var points []point
	for _, n := range o.counts {
		m, err := b.measure(ctx, n)
		if err != nil {
			return err
		}
		fmt.Printf("%10d %12.2f %12.2f %16.0f %14.2f %14.2f %12.1f\n", n, m.made, m.rewrap, float64(n)/m.rewrap/cores, m.again, m.dry, m.memory)
		points = append(points, point{n, m.rewrap, m.again})
	}
	if o.svg != "" {
		if err := os.WriteFile(o.svg, plot(points), 0o644); err != nil {
			return err
		}
	}
	if o.latency > 0 {
		return b.slow(ctx, o)
	}
	return nil
}

const alias = "alias/load"

// bench is a key store and the program.
type bench struct {
	program string
	dir     string
	store   *local.Store
	key     keysource.KeyMetadata
}

// measured is what a vault took, in seconds and MiB.
type measured struct{ made, rewrap, again, dry, memory float64 }

// measure makes a vault of n keys, rotates the CMK and rewraps.
func (b *bench) measure(ctx context.Context, n int) (m measured, err error) {
	dir := filepath.Join(b.dir, "vault")
	defer os.RemoveAll(dir)
	began := time.Now()
	if err := b.makeVault(ctx, dir, n); err != nil {
		return m, err
	}
	m.made = time.Since(began).Seconds()
	if _, err := b.store.RotateKeyOnDemand(ctx, alias); err != nil {
		return m, err
	}
	for _, step := range []struct {
		to   *float64
		args []string
		want int
	}{{&m.dry, []string{"--dry-run"}, 0}, {&m.rewrap, nil, n}, {&m.again, nil, 0}} {
		s, memory, err := b.rewrap(nil, append(step.args, dir)...)
		if err != nil {
			return m, err
		}
		if s.Rewrapped != int64(step.want) {
			return m, fmt.Errorf("rewrapped %d keys of %d", s.Rewrapped, step.want)
		}
		*step.to, m.memory = s.Seconds-s.Waited, max(m.memory, memory)
	}
	return m, nil
}

// makeVault makes a vault with n records under the alias, and no files.
func (b *bench) makeVault(ctx context.Context, dir string, n int) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	top, err := backing.OpenDir(dir)
	if err != nil {
		return err
	}
	defer top.Close()
	if err := vault.Create(ctx, top, b.store, vault.CreateConfig{Keysource: "local:" + filepath.Join(b.dir, "keys"), Key: alias}); err != nil {
		return err
	}
	cfg, err := vault.ReadConfig(top)
	if err != nil {
		return err
	}
	ctl, err := top.OpenDir(envelope.ControlDir)
	if err != nil {
		return err
	}
	defer ctl.Close()
	sc, err := sidecar.Open(ctl, cfg.Volume)
	if err != nil {
		return err
	}
	defer sc.Close()
	geo, err := envelope.NewGeometry(cfg.ChunkSize)
	if err != nil {
		return err
	}
	w := sc.NewWriter(time.Now)
	defer w.Close()
	for n > 0 {
		batch := make([]*envelope.Record, min(n, sidecar.TableSlots-1))
		if err := b.records(ctx, cfg.Volume, geo, batch); err != nil {
			return err
		}
		if _, err := w.Append(batch); err != nil {
			return err
		}
		n -= len(batch)
	}
	return nil
}

// records makes records, on all processors.
func (b *bench) records(ctx context.Context, volume envelope.VolumeID, geo envelope.Geometry, batch []*envelope.Record) error {
	workers := runtime.NumCPU()
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < len(batch); i += workers {
				var id envelope.FileID
				rand.Read(id[:])
				dk, err := b.store.GenerateDataKey(ctx, keysource.GenerateDataKeyInput{KeyID: alias,
					EncryptionContext: envelope.FileContext(volume, id), NumberOfBytes: envelope.KeySize})
				if err != nil {
					errs[w] = err
					return
				}
				fk, err := envelope.NewFileKey(dk.Plaintext.Bytes(), id, geo)
				if err != nil {
					errs[w] = err
					return
				}
				batch[i] = envelope.NewRecord(fk, id, 1, []envelope.Wrapping{{ContextVersion: envelope.ContextVersion,
					KeyARN: dk.KeyID, KeyMaterialID: dk.KeyMaterialID, Blob: dk.CiphertextBlob}})
				dk.Plaintext.Wipe()
				fk.Wipe()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// summary is the last line of a rewrap.
type summary struct {
	Rewrapped, Failed, Calls int64
	Seconds                  float64
	Waited                   float64 `json:"seconds_waited"`
}

// rewrap runs kmsfs rewrap and tells its peak memory in MiB.
func (b *bench) rewrap(env []string, args ...string) (s summary, memory float64, err error) {
	cmd := exec.Command(b.program, append([]string{"rewrap", "--json"}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return s, 0, fmt.Errorf("kmsfs rewrap %s: %w", strings.Join(args, " "), err)
	}
	text := strings.TrimSpace(string(out))
	if err := json.Unmarshal([]byte(text[strings.LastIndexByte(text, '\n')+1:]), &s); err != nil {
		return s, 0, err
	}
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		memory = float64(u.Maxrss) / 1024
	}
	return s, memory, nil
}

// slow rewraps by a KMS in this process that takes its time for each call.
func (b *bench) slow(ctx context.Context, o options) error {
	dir := filepath.Join(b.dir, "slow")
	if err := b.makeVault(ctx, dir, o.latencyKeys); err != nil {
		return err
	}
	if _, err := b.store.RotateKeyOnDemand(ctx, alias); err != nil {
		return err
	}
	server := httptest.NewServer(&awskmstest.Server{Keys: b.store, Latency: o.latency})
	defer server.Close()
	env := []string{"AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY=none", "AWS_EC2_METADATA_DISABLED=true",
		"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null"}
	s, memory, err := b.rewrap(env, "--concurrency", strconv.Itoa(o.concurrency), "--keysource",
		"awskms:///"+alias+"?region=local&endpoint="+url.QueryEscape(server.URL), dir)
	if err != nil {
		return err
	}
	rate := float64(s.Rewrapped) / (s.Seconds - s.Waited)
	most := float64(o.concurrency) / o.latency.Seconds()
	fmt.Printf("%d keys by a KMS with %v latency, %d calls at once: %.0f/s, %.0f %% of %.0f/s; %.1f MiB\n", s.Rewrapped, o.latency,
		o.concurrency, rate, 100*rate/most, most, memory)
	return nil
}
