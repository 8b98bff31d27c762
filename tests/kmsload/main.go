// Command kmsload measures a KMS server of kmsfs: calls a second and latencies of GenerateDataKey and of Decrypt, both
// signed, by 1, 16 and 128 clients on this machine. It makes a key store and starts the server itself; the numbers of CPU
// and memory are the server's. It is a benchmark and not a test.
//
//	go run ./tests/kmsload --kmsfs ./kmsfs
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	program  string
	url      string
	duration time.Duration
	sync     time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.program, "kmsfs", "./kmsfs", "the program to measure")
	flag.DurationVar(&o.duration, "duration", 5*time.Second, "how long each measurement is")
	flag.DurationVar(&o.sync, "audit-sync", 100*time.Millisecond, "kmsfs kms serve --audit-sync")
	flag.StringVar(&o.url, "listen", "127.0.0.1:0", "kmsfs kms serve --listen")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "kmsload:", err)
		os.Exit(1)
	}
}

// run starts a server and measures it.
func run(o options) error {
	dir, err := os.MkdirTemp("", "kmsload-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program, err := filepath.Abs(o.program)
	if err != nil {
		return err
	}
	store := filepath.Join(dir, "keys")
	for _, args := range [][]string{{"key", "create", "--alias", "alias/load"}, {"kms", "user", "create", "load", "--policy", "user"}} {
		if out, err := exec.Command(program, append(args, "--key-store", store)...).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	out, err := exec.Command(program, "kms", "user", "key", "create", "load", "--json", "--key-store", store).Output()
	if err != nil {
		return err
	}
	var key accessKey
	if err := json.Unmarshal(out, &key); err != nil {
		return err
	}
	server := exec.Command(program, "kms", "serve", "--key-store", store, "--listen", o.url, "--audit-sync", o.sync.String())
	server.Stderr = os.Stderr
	stdout, err := server.StdoutPipe()
	if err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return err
	}
	url, err := bufio.NewReader(stdout).ReadString('\n')
	if err == nil {
		err = measure(o, strings.TrimSpace(url), key, server.Process.Pid)
	}
	return errors.Join(err, server.Process.Signal(syscall.SIGTERM), server.Wait())
}

// measure prints a table.
func measure(o options, url string, key accessKey, pid int) error {
	ctx := context.Background()
	s := newSigner(url, key)
	first, err := s.call(ctx, newConn(url), "GenerateDataKey", `{"KeyId":"alias/load","KeySpec":"AES_256","EncryptionContext":{"vault":"00112233445566778899aabbccddeeff","file":"0011223344556677"}}`)
	if err != nil {
		return err
	}
	var wrapped struct{ CiphertextBlob string }
	if err := json.Unmarshal(first, &wrapped); err != nil {
		return err
	}
	decrypt := `{"CiphertextBlob":"` + wrapped.CiphertextBlob + `","EncryptionContext":{"vault":"00112233445566778899aabbccddeeff","file":"0011223344556677"}}`
	generate := `{"KeyId":"alias/load","KeySpec":"AES_256","EncryptionContext":{"vault":"00112233445566778899aabbccddeeff","file":"0011223344556677"}}`
	fmt.Printf("%s, %d CPUs, %s, %v each, audit log durable within %v\n", url, runtime.NumCPU(), runtime.Version(), o.duration, o.sync)
	fmt.Printf("%-16s %8s %8s %9s %9s %9s %16s %11s %11s\n", "call", "clients", "calls/s", "p50", "p99", "max", "server CPU/call", "server CPU", "server RSS")
	for _, op := range []struct{ name, body string }{{"GenerateDataKey", generate}, {"Decrypt", decrypt}} {
		for _, clients := range []int{1, 16, 128} {
			r, err := load(ctx, s, url, op.name, op.body, clients, o.duration, pid)
			if err != nil {
				return err
			}
			fmt.Printf("%-16s %8d %8.0f %9v %9v %9v %16v %10.0f%% %7d MiB\n", op.name, clients, r.rate, r.p50, r.p99, r.max,
				r.perCall, r.cpu*100, r.memory>>20)
		}
	}
	return nil
}

// cpuOf is the time that a process has had, user and system.
func cpuOf(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, userErr := strconv.ParseInt(fields[11], 10, 64)
	system, systemErr := strconv.ParseInt(fields[12], 10, 64)
	const ticks = 100 // a second, on every Linux
	return time.Duration(user+system) * time.Second / ticks, errors.Join(userErr, systemErr)
}

// memoryOf is the memory that a process has, in bytes.
func memoryOf(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}
