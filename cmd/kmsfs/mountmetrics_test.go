package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"kmsfs/keysource"
)

// metric is the value of the sample with that name and these labels in the text of Prometheus; -1 where there is none.
func metric(text, sample string) float64 {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name == sample {
			if v, err := strconv.ParseFloat(value, 64); err == nil {
				return v
			}
		}
	}
	return -1
}

// TestMetrics: what is done on a mount is counted, the same over the control socket and over HTTP, and names no CMK and path.
func TestMetrics(t *testing.T) {
	b := mountBench(t, "p")
	id := b.ok("key create --key-store keys --alias alias/one")
	b.ok("init --key-store keys --key alias/one v")
	b.mkdir("p")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	b.fails(24, "address already in use", "ss -ltnp", "mount --metrics-listen "+address+" v p")
	l.Close()
	b.ok("mount --metrics-listen " + address + " v p")
	for i := range 3 {
		if err := writeSynced(fmt.Sprintf("%s/p/secretname%d", b.dir, i), "text"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(b.dir + "/p/none"); err == nil {
		t.Error("none exists")
	}
	b.ok("key disable --key-store keys " + id)
	for i := 0; ; i++ { // the daemon looks at the key store every second
		b.ok("ctl purge p")
		err := writeSynced(fmt.Sprint(b.dir, "/p/refused", i), "x")
		if isErrno(err, syscall.EKEYREVOKED) {
			break
		}
		if err != nil || i == 50 {
			t.Fatalf("a file under a disabled CMK: %v", err)
		}
		time.Sleep(200 * time.Millisecond)
	}
	page, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer page.Body.Close()
	over, err := io.ReadAll(page.Body)
	if err != nil {
		t.Fatal(err)
	}
	for where, text := range map[string]string{"ctl": b.ok("ctl metrics p"), "http": string(over)} {
		for sample, least := range map[string]float64{
			`kmsfs_keysource_attempts_total{operation="GenerateDataKey",result="ok"}`:       3,
			`kmsfs_keysource_attempts_total{operation="GenerateDataKey",result="disabled"}`: 1,
			`kmsfs_keysource_attempts_total{operation="Decrypt",result="ok"}`:               1,
			`kmsfs_keysource_attempt_seconds_count{operation="GenerateDataKey"}`:            4,
			`kmsfs_key_cache_requests_total{answer="miss"}`:                                 1,
			`kmsfs_key_cache_evicted_total`:                                                 1,
			`kmsfs_key_cache_entries`:                                                       0,
			`kmsfs_keys_made_total`:                                                         3,
			`kmsfs_key_failures_total`:                                                      1,
			`kmsfs_keys_ahead{state="at_hand"}`:                                             0,
			`kmsfs_nodes`:                                                                   3,
			`kmsfs_open_files`:                                                              0,
			`kmsfs_journal_bytes`:                                                           0,
			`kmsfs_corrupt_total`:                                                           0,
			`kmsfs_panics_total`:                                                            0,
			`kmsfs_requests_under_way`:                                                      0,
			`kmsfs_requests_hung`:                                                           0,
			`kmsfs_oldest_request_seconds`:                                                  0,
			`kmsfs_read_ahead_fetched_total`:                                                0,
			`kmsfs_operations_failed_total{errno="EKEYREVOKED"}`:                            1,
			`go_goroutines`:                                                                 1,
		} {
			if got := metric(text, sample); got < least {
				t.Errorf("%s: %s is %v, want %v or more", where, sample, got, least)
			}
		}
		for _, private := range []string{id, "alias/", "secretname", b.dir} {
			if strings.Contains(text, private) {
				t.Errorf("%s names %s", where, private)
			}
		}
	}
	for _, path := range []string{"/", "/v1/purge"} {
		r, err := http.Post("http://"+address+path, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != http.StatusNotFound {
			t.Errorf("POST %s: %s", path, r.Status)
		}
	}
}

// TestMetricsCorrupt: a file that was tampered with is counted.
func TestMetricsCorrupt(t *testing.T) {
	b := mountBench(t, "p")
	b.ok("mount --init --key-store keys v p")
	b.write("p/file", strings.Repeat("x", 10000))
	b.ok("umount p")
	entries, err := os.ReadDir(b.dir + "/v")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Type().IsRegular() && !strings.HasPrefix(e.Name(), ".") {
			text, err := os.ReadFile(b.dir + "/v/" + e.Name())
			if err != nil {
				t.Fatal(err)
			}
			text[len(text)-100] ^= 1
			b.write("v/"+e.Name(), string(text))
		}
	}
	b.ok("mount v p")
	if _, err := os.ReadFile(b.dir + "/p/file"); !isErrno(err, syscall.EIO) {
		t.Errorf("read of a damaged file: %v", err)
	}
	text := b.ok("ctl metrics v")
	if metric(text, "kmsfs_corrupt_total") < 1 || metric(text, `kmsfs_operations_failed_total{errno="EIO"}`) < 1 {
		t.Errorf("not counted:\n%s", text)
	}
}

func TestMetricsAddress(t *testing.T) {
	for address, good := range map[string]bool{
		"127.0.0.1:9464": true, "[::1]:9464": true, "localhost:0": true, "127.3.2.1:1": true,
		"0.0.0.0:9464": false, ":9464": false, "[::]:1": false, "10.0.0.1:1": false, "example.org:1": false, "127.0.0.1": false, "": false,
	} {
		if err := checkMetricsAddress(address); (err == nil) != good {
			t.Errorf("%q: %v", address, err)
		}
	}
}

func TestResultOf(t *testing.T) {
	for code, want := range map[string]string{
		keysource.CodeDisabled: "disabled", keysource.CodeAccessDenied: "denied", keysource.CodeNotFound: "not_found",
		keysource.CodeThrottling: "throttled", keysource.CodeInternal: "unavailable", keysource.CodeInvalidState: "invalid_state",
		keysource.CodeInvalidCiphertext: "invalid_ciphertext", keysource.CodeIncorrectKey: "incorrect_key",
		keysource.CodeLimitExceeded: "other",
	} {
		if got := resultOf(fmt.Errorf("x: %w", keysource.NewError("", "", code, ""))); got != want {
			t.Errorf("%s: %s, want %s", code, got, want)
		}
	}
	if resultOf(nil) != "ok" {
		t.Error("success is no result")
	}
}
