package main

import (
	"context"
	"fmt"
	"strings"
)

// helperName is the name under which mount(8) calls this program for file systems of type kmsfs.
const helperName = "mount.kmsfs"

// mountHelper is mount.kmsfs SOURCE TARGET [-sfnv] [-N namespace] [-o options] [-t type.subtype], see mount(8),
// "External helpers".
func (a *app) mountHelper(ctx context.Context, argv []string) error {
	var m mountFlags
	var dirs, lists []string
	unknown, fake := unknownRefused, false
	usage := func(format string, args ...any) error {
		return hintf(faultf(errUsage, format, args...), "mount.kmsfs VAULT MOUNTPOINT [-sfnv] [-o OPTIONS]")
	}
	for len(argv) > 0 {
		arg := argv[0]
		argv = argv[1:]
		if !strings.HasPrefix(arg, "-") || arg == "-" {
			dirs = append(dirs, arg)
			continue
		}
		for letters := arg[1:]; letters != ""; {
			letter := letters[:1]
			letters = letters[1:]
			if strings.Contains("otN", letter) {
				value := letters
				letters = ""
				if value == "" {
					if len(argv) == 0 {
						return usage("-%s needs a value", letter)
					}
					value, argv = argv[0], argv[1:]
				}
				switch letter {
				case "o":
					lists = append(lists, value)
				case "N":
					return usage("-N: another mount namespace is not supported")
				}
				continue
			}
			switch letter {
			case "s":
				unknown = unknownIgnored
			case "f":
				fake = true
			case "n", "v":
			default:
				return usage("unknown flag -%s", letter)
			}
		}
	}
	if len(dirs) != 2 {
		return usage("a vault and a mountpoint are needed, not %d arguments", len(dirs))
	}
	for _, list := range lists {
		if err := m.parseOptions(list, unknown); err != nil {
			return err
		}
	}
	if fake {
		_, err := m.finish(a, dirs[0], dirs[1])
		return err
	}
	if err := a.mount(ctx, &m, dirs[0], dirs[1]); err != nil {
		return fmt.Errorf("%s: %w", dirs[1], err)
	}
	return nil
}
