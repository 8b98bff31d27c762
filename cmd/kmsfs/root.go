package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// rootCommand is the tree of all verbs.
func (a *app) rootCommand() *cobra.Command {
	root := group(&cobra.Command{
		Use:   "kmsfs",
		Short: "Encrypted directories with the keys of a key management service",
		Long: `kmsfs keeps a directory encrypted: the vault. Mounted, it is an ordinary directory: the mount. Each file has a
data key of its own, wrapped by a CMK that stays in its key store.`,
		Example: `  kmsfs mount --init ~/vault ~/plain
  kmsfs status
  kmsfs umount ~/plain`,
		SilenceErrors: true,
		SilenceUsage:  true,
	})
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetUsageFunc(writeUsage)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return hintf(faultf(errUsage, "%v", err), "%s --help", cmd.CommandPath())
	})
	root.AddCommand(
		a.initCommand(), a.mountCommand(), a.umountCommand(), a.unitCommand(), a.statusCommand(), a.infoCommand(),
		a.rewrapCommand(), a.reencryptCommand(), a.zoneCommand(), a.ctlCommand(), a.freezeCommand(),
		a.verifyCommand(), a.fsckCommand(), a.manifestCommand(), a.freshnessCommand(), a.locateCommand(), a.keysCommand(),
		a.lsCommand(), a.catCommand(), a.statCommand(), a.findCommand(), a.cpCommand(), a.exportCommand(), a.importCommand(), a.syncCommand(),
		a.doctorCommand(), a.keyCommand(), a.kmsCommand(),
		a.versionCommand(), a.manCommand(), exitCodesTopic())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() == "completion" {
			group(cmd)
		}
	}
	return root
}

// group makes cmd a command that needs one of its sub-commands.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return hintf(faultf(errUsage, "%s needs a verb", cmd.CommandPath()), "%s --help", cmd.CommandPath())
		}
		err := faultf(errUsage, "%s has no verb %q", cmd.CommandPath(), args[0])
		if similar := cmd.SuggestionsFor(args[0]); len(similar) > 0 {
			return hintf(err, "%s %s", cmd.CommandPath(), strings.Join(similar, ", or: "+cmd.CommandPath()+" "))
		}
		return hintf(err, "%s --help", cmd.CommandPath())
	}
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2
	}
	return cmd
}

// args checks the number of arguments against their names; one in brackets may be missing.
func args(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		var err error
		switch {
		case len(args) > len(names):
			err = faultf(errUsage, "one argument too many: %q", args[len(names)])
		case len(args) < len(names) && !strings.HasPrefix(names[len(args)], "["):
			err = faultf(errUsage, "%s is missing", names[len(args)])
		}
		for _, a := range args {
			if a == "" {
				err = errors.Join(err, faultf(errUsage, "an argument is empty"))
			}
		}
		if err == nil {
			return nil
		}
		return hintf(err, "%s", cmd.UseLine())
	}
}

// exitCodesTopic is kmsfs help exit-codes.
func exitCodesTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "The exit codes of kmsfs",
		Long: fmt.Sprintf("The exit codes of kmsfs:\n\n%s\nmount.kmsfs has those of mount(8): %d usage or permission, %d system, %d interrupted, %d all else.",
			exitText(), mountUsage, mountSystem, mountInterrupt, mountFailure),
	}
}
