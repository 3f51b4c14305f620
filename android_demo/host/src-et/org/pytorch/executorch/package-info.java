/**
 * The part of ExecuTorch 1.5's Java API that the app's engine uses, with the signatures that its Kotlin classes have
 * for Java. The engine compiles against these classes here and on a JVM runs on them, with the natives of
 * host/et_shim.cpp; they are in no APK, since on a phone org.pytorch:executorch-android has the real ones.
 *
 * <p>The API is that of github.com/pytorch/executorch (extension/android, BSD-3-Clause, Meta Platforms); the code is
 * this project's own.
 */
package org.pytorch.executorch;
