package mount_test

import (
	"fmt"
	"strings"
	"testing"

	"kmsfs/tests/internal/lab"
)

// TestFio writes with fio in many ways, lets it verify every block, and verifies once more after a remount.
func TestFio(t *testing.T) {
	lab.Need(t, "fio")
	size := lab.Sized(16, 4) // MiB
	kinds := map[string]string{
		"random":         "--ioengine=psync --rw=randwrite --bsrange=512-100k --bs_unaligned",
		"sequential":     "--ioengine=psync --rw=write --bs=37k",
		"mmap":           "--ioengine=mmap --rw=randwrite --bs=4k",
		"direct":         "--ioengine=psync --rw=randwrite --bs=4k --direct=1",
		"async":          "--ioengine=libaio --rw=randwrite --bs=16k --iodepth=16",
		"async direct":   "--ioengine=libaio --rw=randwrite --bs=64k --iodepth=16 --direct=1",
		"synced":         fmt.Sprintf("--ioengine=psync --rw=randwrite --bs=8k --fdatasync=16 --io_size=%dk", size<<10/8),
		"several at one": fmt.Sprintf("--ioengine=psync --rw=randwrite --bs=4k --numjobs=4 --thread --offset_increment=%dm", size/4),
	}
	modes(t, "", func(t *testing.T, m *lab.Mount) {
		fio := func(name, more string) {
			args := append(strings.Fields(kinds[name]+" "+more), "--name=job", "--filename="+strings.ReplaceAll(name, " ", "-"),
				fmt.Sprintf("--size=%dm", size), "--verify=crc32c", "--verify_fatal=1", "--randseed=7", "--output-format=terse")
			if strings.HasPrefix(name, "several") {
				args = append(args, fmt.Sprintf("--size=%dm", size/4))
			}
			lab.Run(t, m.Dir, "fio", args...)
		}
		for name := range kinds {
			fio(name, "--do_verify=1")
		}
		check(t, m.Remount(), "remount")
		for name := range kinds {
			fio(name, "--verify_only")
		}
	})
}
