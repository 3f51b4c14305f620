"""The offline build of the APK, step by step."""
