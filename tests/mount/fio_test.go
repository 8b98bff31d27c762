package mount_test

import (
	"strings"
	"testing"

	"kmsfs/tests/internal/lab"
)

// TestFio writes with fio in many ways, lets it verify every block, and verifies once more after a remount.
func TestFio(t *testing.T) {
	lab.Need(t, "fio")
	kinds := map[string]string{
		"random":         "--ioengine=psync --rw=randwrite --bsrange=512-100k --bs_unaligned",
		"sequential":     "--ioengine=psync --rw=write --bs=37k",
		"mmap":           "--ioengine=mmap --rw=randwrite --bs=4k",
		"direct":         "--ioengine=psync --rw=randwrite --bs=4k --direct=1",
		"async":          "--ioengine=libaio --rw=randwrite --bs=16k --iodepth=16",
		"async direct":   "--ioengine=libaio --rw=randwrite --bs=64k --iodepth=16 --direct=1",
		"synced":         "--ioengine=psync --rw=randwrite --bs=8k --fdatasync=16 --io_size=2m",
		"several at one": "--ioengine=psync --rw=randwrite --bs=4k --numjobs=4 --thread --offset_increment=4m",
	}
	modes(t, "", func(t *testing.T, m *lab.Mount) {
		fio := func(name, more string) {
			args := append(strings.Fields(kinds[name]+" "+more), "--name=job", "--filename="+strings.ReplaceAll(name, " ", "-"),
				"--size=16m", "--verify=crc32c", "--verify_fatal=1", "--randseed=7", "--output-format=terse")
			if strings.HasPrefix(name, "several") {
				args = append(args, "--size=4m")
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
